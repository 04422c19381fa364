"""Scale from a driven distance: a textured corridor rendered exactly from two places, and a real street."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from corridor import CAMERA, make_texture, moved, shot

from depth_ros import bundle
from depth_ros.engines import EngineOptions, load_engine
from depth_ros.estimator import Estimator
from depth_ros.scale import NoMeasurement, Unchanged
from depth_ros.scale.odometry import OdometryMeter
from depth_ros.types import CameraModel, Frame


@pytest.fixture(scope="module")
def texture():
    return make_texture()


@pytest.mark.parametrize("motion", [(0.6, 0.0, 0.0), (0.4, 0.1, 0.03), (0.0, 0.3, 0.0)])
def test_the_scale_of_an_exact_prediction(texture, motion):
    meter = OdometryMeter()
    with pytest.raises(NoMeasurement, match="no two frames"):
        meter.measure(*shot(texture, moved(), 0.0))
    found = meter.measure(*shot(texture, moved(*motion), 0.2))
    assert found.scale.factor == pytest.approx(3.0, rel=0.02)
    assert found.inliers > 50
    assert found.scale.sigma < 0.05


def test_a_prediction_that_errs_in_patches_is_within_its_stated_uncertainty(texture):
    ratios = []
    for seed in range(8):
        noise = 0.1 * np.kron(np.random.default_rng(seed).standard_normal((4, 8)), np.ones((40, 40)))
        meter = OdometryMeter()
        with pytest.raises(NoMeasurement):
            meter.measure(*shot(texture, moved(), 0.0, noise=noise))
        scale = meter.measure(*shot(texture, moved(0.6), 0.2, noise=noise)).scale
        ratios.append(np.log(scale.factor / 3) / scale.sigma)
        assert 0.01 < scale.sigma < 0.1
    assert np.max(np.abs(ratios)) < 3
    assert np.sqrt(np.mean(np.square(ratios))) < 1.5


def test_standing_turning_and_a_long_pause_say_nothing(texture):
    meter = OdometryMeter()
    with pytest.raises(NoMeasurement, match="no two frames"):
        meter.measure(*shot(texture, moved(), 0.0))
    with pytest.raises(Unchanged, match=r"moved 0\.01 m"):
        meter.measure(*shot(texture, moved(0.01), 0.2))
    assert meter.measure(*shot(texture, moved(0.6), 0.4)).scale.factor == pytest.approx(3, rel=0.02)  # since the first frame
    with pytest.raises(NoMeasurement, match="turns"):
        meter.measure(*shot(texture, moved(0.9, 0.0, 0.2), 0.6))
    with pytest.raises(Unchanged, match=r"moved 0\.00 m"):
        meter.measure(*shot(texture, moved(0.9, 0.0, 0.2), 9.0))
    with pytest.raises(NoMeasurement, match="more than 2 s apart"):
        meter.measure(*shot(texture, moved(1.4, 0.0, 0.2), 12.0))
    assert meter.measure(*shot(texture, moved(1.9, 0.0, 0.2), 12.2)).scale.factor == pytest.approx(3, rel=0.03)


def test_a_blank_scene_says_nothing(texture):
    meter = OdometryMeter()
    frames = [shot(texture, moved(0.6 * k), 0.2 * k) for k in range(2)]
    blank = [(Frame(np.full_like(f.image, 90), CAMERA, f.stamp_ns, "camera"), p, pose) for f, p, pose in frames]
    with pytest.raises(NoMeasurement, match="no two frames"):
        meter.measure(*blank[0])
    with pytest.raises(NoMeasurement, match="texture"):
        meter.measure(*blank[1])


def test_odometry_that_lies_about_the_distance_is_believed(texture):
    """Scale is the ratio to what odometry says: twice the distance, twice the scale."""
    meter = OdometryMeter()
    frames = [shot(texture, moved(), 0.0), shot(texture, moved(0.5), 0.2)]
    with pytest.raises(NoMeasurement):
        meter.measure(*frames[0])
    assert meter.measure(*frames[1][:2], moved(1.0)).scale.factor == pytest.approx(6.0, rel=0.02)


def test_on_a_real_street_a_metric_model_needs_no_factor(shared_data):
    """Frames that the shipped model was not trained on; their poses are truth."""
    model = bundle.load("models/default")
    folder = shared_data / "kitti_odom00_416x128"
    K = np.array(json.loads((folder / "meta.json").read_text())["K"])
    camera = CameraModel(416, 128, K[0, 0], K[1, 1], K[0, 2], K[1, 2])
    times, poses = np.loadtxt(folder / "times.txt"), np.loadtxt(folder / "poses.txt").reshape(-1, 3, 4)
    estimator = Estimator(model, load_engine(model, "onnxruntime", EngineOptions(threads=1)))
    meter, factors = OdometryMeter(), []
    files = sorted((folder / "image").glob("*"))
    for k in range(905, 945, 2):
        image = np.ascontiguousarray(cv2.imread(str(files[k]))[..., ::-1])
        frame = Frame(image, camera, int(times[k] * 1e9), "camera")
        (prediction,) = estimator.predict([frame])
        try:
            factors.append(meter.measure(frame, prediction, np.vstack([poses[k], [0, 0, 0, 1]])).scale.factor)
        except NoMeasurement:
            continue
    assert len(factors) > 10
    assert np.median(factors) == pytest.approx(1, abs=0.08)

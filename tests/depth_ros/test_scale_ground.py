"""Scale from the camera's height: analytic grounds, with noise, obstacles and slopes, and KITTI's real one."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from depth_ros import bundle
from depth_ros.engines import EngineOptions, load_engine
from depth_ros.estimator import Estimator
from depth_ros.scale import NoMeasurement
from depth_ros.scale.ground import measure_height
from depth_ros.types import CameraModel, DepthPrediction, Frame

CAMERA = CameraModel(208, 64, 120.0, 122.0, 101.0, 31.0)


def ground(height, pitch=0.0, roll=0.0):
    """Depth (64, 208) of a plane `height` below a camera that looks down by `pitch`; far above the horizon a wall 30 m away."""
    v, u = np.mgrid[:64, :208]
    ray = np.stack([(u - 101.0) / 120, (v - 31.0) / 122, np.ones_like(u, float)], axis=-1)
    down = np.array([np.sin(roll), np.cos(roll) * np.cos(pitch), np.cos(roll) * np.sin(pitch)])
    with np.errstate(divide="ignore"):
        depth = height / (ray @ down)
    return np.where((depth > 0) & (depth < 30), depth, 30.0)


def predict(depth, relative=0.1):
    return DepthPrediction(depth.astype(np.float32), (relative * depth).astype(np.float32), CAMERA)


@pytest.mark.parametrize("pitch", [0.0, 0.15, -0.03])
def test_an_exact_ground_gives_the_exact_scale(pitch):
    """Ground 0.55 units below, camera 1.65 m above it: 3 metres to the unit."""
    found = measure_height(predict(ground(0.55, pitch)), 1.65, pitch)
    assert found.scale.factor == pytest.approx(3.0, rel=1e-4)
    assert found.inliers > 0.95 * found.samples
    assert found.scale.shift_sigma == 0


def test_obstacles_on_the_ground_change_little():
    """Two boxes cover a third of where ground is looked for."""
    depth = ground(0.55)
    depth[30:60, 50:75] = np.minimum(depth[30:60, 50:75], 2.0)
    depth[28:64, 125:150] = np.minimum(depth[28:64, 125:150], 1.2)
    rng = np.random.default_rng(0)
    noisy = depth * np.exp(0.03 * rng.standard_normal(depth.shape))
    found = measure_height(predict(noisy, 0.03), 1.65)
    assert found.scale.factor == pytest.approx(3.0, rel=0.02)
    assert 0.5 < found.inliers / found.samples < 0.85


def test_the_stated_uncertainty_holds_over_random_trials():
    """Errors in patches of the size that the fit reckons with, and the ground tilted at random within the prior."""
    rng = np.random.default_rng(1)
    ratios, sigmas = [], []
    for _ in range(80):
        tilt = np.radians(1.0) * rng.standard_normal(2)
        patches = np.kron(rng.standard_normal((4, 8)), np.ones((16, 26)))
        depth = ground(0.55, *tilt) / (1 + 0.1 * patches)
        scale = measure_height(predict(depth, 0.1), 1.65).scale
        ratios.append(np.log(scale.factor / 3) / scale.sigma)
        sigmas.append(scale.sigma)
    assert np.mean(np.abs(ratios) < 1) > 0.55
    assert np.mean(np.abs(ratios) < 2) > 0.88
    assert np.median(sigmas) < 0.2


def test_a_known_tilt_makes_it_surer_than_the_fit_alone():
    rng = np.random.default_rng(0)
    depth = ground(0.55) * np.exp(0.1 * rng.standard_normal((64, 208)))
    found = measure_height(predict(depth), 1.65).scale
    assert found.factor == pytest.approx(3, abs=3 * 3 * found.sigma)
    assert found.sigma < 0.1


def test_a_wall_is_no_ground():
    with pytest.raises(NoMeasurement, match=r"tilted by \d+ degrees"):
        measure_height(predict(np.full((64, 208), 5.0)), 1.65)


def test_a_ramp_is_no_ground_unless_the_pitch_is_known():
    depth = ground(0.55, pitch=0.25)
    with pytest.raises(NoMeasurement, match=r"tilted by 14 degrees .* check scale\.camera_pitch"):
        measure_height(predict(depth), 1.65)
    assert measure_height(predict(depth), 1.65, 0.25).scale.factor == pytest.approx(3.0, rel=1e-3)


def test_a_jumble_is_no_ground():
    rng = np.random.default_rng(0)
    blocks = np.kron(rng.uniform(0.3, 30, (16, 26)), np.ones((4, 8)))
    with pytest.raises(NoMeasurement):
        measure_height(predict(blocks, 0.02), 1.65)


def test_a_camera_that_looks_up_sees_no_ground():
    with pytest.raises(NoMeasurement, match="pixels with depth look down at the ground"):
        measure_height(predict(ground(0.55)), 1.65, pitch=-0.4)


def test_invalid_depth_is_left_out():
    depth = ground(0.55)
    depth[:, ::3] = np.nan
    depth[45:, 100:120] = np.inf
    prediction = predict(depth)
    assert measure_height(prediction, 1.65).scale.factor == pytest.approx(3.0, rel=1e-4)


def test_kittis_camera_is_1_65_m_above_the_road(shared_data):
    """The shipped model was trained in metres on this street, with poses: the height that was measured on the car must agree."""
    model = bundle.load("models/default")
    folder = shared_data / "kitti_odom00_416x128"
    K = np.array(json.loads((folder / "meta.json").read_text())["K"])
    camera = CameraModel(416, 128, K[0, 0], K[1, 1], K[0, 2], K[1, 2])
    estimator = Estimator(model, load_engine(model, "onnxruntime", EngineOptions(threads=1)))
    factors, sigmas = [], []
    for file in sorted((folder / "image").glob("*"))[905:1017:14]:
        image = np.ascontiguousarray(cv2.imread(str(file))[..., ::-1])
        (prediction,) = estimator.predict([Frame(image, camera, 0, "camera")])
        scale = measure_height(prediction, 1.65).scale
        factors.append(scale.factor)
        sigmas.append(scale.sigma)
    assert np.median(factors) == pytest.approx(1, abs=0.06)
    assert np.mean(np.abs(np.log(factors)) < 2 * np.array(sigmas)) > 0.8

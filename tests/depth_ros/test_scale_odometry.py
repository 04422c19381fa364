"""Scale from a driven distance: a textured corridor rendered exactly from two places, and a real street."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from depth_ros import bundle
from depth_ros.engines import EngineOptions, load_engine
from depth_ros.estimator import Estimator
from depth_ros.scale import NoMeasurement
from depth_ros.scale.odometry import OdometryMeter
from depth_ros.scale.poses import OPTICAL_T_BODY, pose_from_text
from depth_ros.types import CameraModel, DepthPrediction, Frame

CAMERA = CameraModel(320, 160, 200.0, 200.0, 159.5, 79.5)
PLANES = [  # normal . X = offset, in the first camera's optical frame, and two directions along the plane
    ([0, 1, 0], 1.5, [1, 0, 0], [0, 0, 1]),
    ([0, -1, 0], 2.5, [1, 0, 0], [0, 0, 1]),
    ([1, 0, 0], 3.0, [0, 1, 0], [0, 0, 1]),
    ([-1, 0, 0], 4.0, [0, 1, 0], [0, 0, 1]),
    ([0, 0, 1], 18.0, [1, 0, 0], [0, 1, 0]),
]


@pytest.fixture(scope="module")
def texture():
    rng = np.random.default_rng(0)
    return cv2.GaussianBlur(rng.uniform(0, 255, (1024, 1024)).astype(np.float32), (0, 0), 1.5)


def render(texture, world_T_camera):
    """Image (160, 320, 3) and depth of the corridor, each pixel's ray cut with each plane; the texture has 20 px to the metre."""
    v, u = np.mgrid[:160, :320]
    ray = np.stack([(u - 159.5) / 200, (v - 79.5) / 200, np.ones_like(u, float)], axis=-1) @ world_T_camera[:3, :3].T
    origin = world_T_camera[:3, 3]
    depth, grey = np.full(u.shape, np.inf), np.zeros(u.shape, np.float32)
    for k, (normal, offset, across, along) in enumerate(PLANES):
        with np.errstate(divide="ignore"):
            z = (offset - origin @ normal) / (ray @ normal)
        hit = (z > 0) & (z < depth)
        point = origin + np.where(hit, z, 0)[..., None] * ray
        column, row = ((point @ np.asarray(axis, float) * 20 + 200 * k) % 1000 for axis in (across, along))
        seen = cv2.remap(texture, column.astype(np.float32), row.astype(np.float32), cv2.INTER_LINEAR)
        depth, grey = np.where(hit, z, depth), np.where(hit, seen, grey)
    contrast = np.clip((grey - 127.5) * 6 + 127.5, 0, 255).astype(np.uint8)
    return np.repeat(contrast[..., None], 3, axis=2), depth


def moved(forward=0.0, side=0.0, yaw=0.0):
    """world_T_camera of optical frames; the world is the first camera's optical frame."""
    return OPTICAL_T_BODY @ pose_from_text(f"{forward} {side} 0 0 0 {yaw}") @ np.linalg.inv(OPTICAL_T_BODY)


def shot(texture, pose, time_s, scale=3.0, noise=None):
    """Frame and prediction at a pose: depth is true but for the scale and its own relative noise."""
    image, depth = render(texture, pose)
    predicted = depth / scale * (1 if noise is None else np.exp(noise))
    frame = Frame(image, CAMERA, int(time_s * 1e9), "camera")
    return frame, DepthPrediction(predicted.astype(np.float32), (0.1 * predicted).astype(np.float32), CAMERA), pose


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
    with pytest.raises(NoMeasurement, match=r"moved 0\.01 m"):
        meter.measure(*shot(texture, moved(0.01), 0.2))
    assert meter.measure(*shot(texture, moved(0.6), 0.4)).scale.factor == pytest.approx(3, rel=0.02)  # since the first frame
    with pytest.raises(NoMeasurement, match="turns"):
        meter.measure(*shot(texture, moved(0.9, 0.0, 0.2), 0.6))
    with pytest.raises(NoMeasurement, match="no two frames"):
        meter.measure(*shot(texture, moved(1.2, 0.0, 0.2), 9.0))


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

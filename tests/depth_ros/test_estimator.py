"""Metres through the whole estimator with the probe bundle (depth = red / 10, sigma = green / 100)."""

import re
import subprocess
import sys

import numpy as np
import pytest

from depth_ros.bundle import BundleError
from depth_ros.engines import EngineOptions, load_engine
from depth_ros.estimator import Estimator, resize_image, upsample
from depth_ros.types import CameraModel, DepthPrediction, Distortion, Frame, InputError

CAMERA = CameraModel(192, 96, 150.0, 150.0, 95.5, 47.5)  # 50 px focal length at the probe's 64x32


@pytest.fixture
def estimator(make_bundle):
    made = make_bundle()
    return Estimator(made, load_engine(made, options=EngineOptions(threads=1)))


def frame(image, camera=CAMERA):
    return Frame(image, camera, 0, "camera")


def painted(red, green, camera=CAMERA):
    """Frame of one colour."""
    return frame(np.full((camera.height, camera.width, 3), (red, green, 0), np.uint8), camera)


def test_wall_at_5_m(estimator):
    (prediction,) = estimator.predict([painted(50, 30)])
    np.testing.assert_allclose(prediction.depth, np.full((32, 64), 5.0), rtol=1e-6)
    np.testing.assert_allclose(prediction.sigma, np.full((32, 64), 0.3), rtol=1e-6)
    assert prediction.camera == CAMERA.resized(64, 32)


def test_doubled_focal_length_doubles_depth_and_sigma(estimator):
    zoomed = CameraModel(192, 96, 300.0, 300.0, 95.5, 47.5)
    near, far = estimator.predict([painted(50, 30), painted(50, 30, zoomed)])
    np.testing.assert_allclose(far.depth, 2 * near.depth, rtol=1e-6)
    np.testing.assert_allclose(far.sigma, 2 * near.sigma, rtol=1e-6)


def test_focal_length_counts_at_the_networks_size_and_as_geometric_mean(estimator):
    # The same lens with twice the pixels is the same camera; fx x 4 alone counts as 2.
    fine = CameraModel(384, 192, 300.0, 300.0, 191.5, 95.5)
    wide = CameraModel(192, 96, 600.0, 150.0, 95.5, 47.5)
    same, doubled = estimator.predict([painted(50, 30, fine), painted(50, 30, wide)])
    np.testing.assert_allclose(same.depth, 5.0, rtol=1e-6)
    np.testing.assert_allclose(doubled.depth, 10.0, rtol=1e-6)


def test_frames_of_different_cameras_share_a_batch_in_order(estimator):
    other = CameraModel(100, 80, 78.125, 125.0, 50.0, 40.0)  # 50 px focal length at 64x32 too
    depths = [p.depth[0, 0] for p in estimator.predict([painted(10, 5), painted(20, 5, other), painted(30, 5)])]
    np.testing.assert_allclose(depths, [1.0, 2.0, 3.0], rtol=1e-6)
    assert estimator.predict([]) == []


def test_image_is_resized_to_where_the_camera_says(estimator):
    # Red grows linearly with the ray's x, so depth at each network pixel must be that line at the network camera's ray.
    u = np.arange(192)
    image = np.zeros((96, 192, 3), np.uint8)
    image[..., 0] = 20 + u
    image[..., 1] = 50
    (prediction,) = estimator.predict([frame(image)])
    x = (np.arange(64) - prediction.camera.cx) / prediction.camera.fx
    expected = (20 + x * CAMERA.fx + CAMERA.cx) / 10
    np.testing.assert_allclose(prediction.depth[:, 1:-1], np.broadcast_to(expected, (32, 64))[:, 1:-1], atol=0.051)


@pytest.mark.parametrize(
    ("red", "green", "depth", "sigma"),
    [
        (1, 10, 0.1, 0.1),  # at the near end of the range
        (0, 10, np.nan, np.nan),  # no depth
        (50, 0, np.nan, np.nan),  # no sigma
        (249, 10, 24.9, 0.1),
        (250, 10, np.inf, np.nan),  # at max_depth: nothing in range
        (255, 10, np.inf, np.nan),
        (255, 0, np.nan, np.nan),  # a sigma of 0 is a broken answer even beyond the range
    ],
)
def test_range_and_invalid_values(estimator, red, green, depth, sigma):
    (prediction,) = estimator.predict([painted(red, green)])
    np.testing.assert_allclose(prediction.depth, np.full((32, 64), depth), rtol=1e-6)
    np.testing.assert_allclose(prediction.sigma, np.full((32, 64), sigma), rtol=1e-6)


def test_range_scales_with_the_focal_length(estimator):
    # The network never says more than 25 m; through twice the focal length that is 50 m.
    zoomed = CameraModel(192, 96, 300.0, 300.0, 95.5, 47.5)
    far, beyond, nearest = estimator.predict([painted(240, 30, zoomed), painted(250, 30, zoomed), painted(1, 30, zoomed)])
    np.testing.assert_allclose(far.depth, 48.0, rtol=1e-6)
    assert np.isposinf(beyond.depth).all()
    np.testing.assert_allclose(nearest.depth, 0.2, rtol=1e-6)


class Canned:
    """An engine that answers what it is given, to reach values that the probe's 8 bits cannot express."""

    def __init__(self, depth, sigma):
        self.answer = np.full((1, 32, 64), depth, np.float32), np.full((1, 32, 64), sigma, np.float32)

    def infer(self, image):
        return self.answer

    def describe(self):
        return "canned"

    def close(self):
        pass


@pytest.mark.parametrize(
    ("depth", "sigma"), [(np.nan, 1), (np.inf, 1), (-np.inf, 1), (-3, 1), (0.0999, 1), (5, np.nan), (5, np.inf), (5, -1)]
)
def test_broken_network_output_is_invalid(make_bundle, depth, sigma):
    (prediction,) = Estimator(make_bundle(), Canned(depth, sigma)).predict([painted(50, 30)])
    assert np.isnan(prediction.depth).all()
    assert np.isnan(prediction.sigma).all()


@pytest.mark.parametrize(
    ("kind", "source", "sources"),
    [
        ("scale_invariant", "bundle", "fixed or camera_height or range or odometry or relative"),
        ("affine_invariant", "bundle", "range or relative"),
        ("affine_invariant", "fixed", "range or relative"),
        ("affine_invariant", "odometry", "range or relative"),
        ("metric", "relative", "bundle or fixed or camera_height or range or odometry"),
    ],
)
def test_a_bundle_is_refused_with_a_source_that_does_not_suit_its_kind(make_bundle, kind, source, sources):
    made = make_bundle(kind=kind)
    said = re.sub("relative$", r"relative \\(no metres\\)", sources)
    with pytest.raises(BundleError, match=rf"bundle\.yaml: kind is '{kind}'.* set scale.source to {said}$"):
        Estimator(made, None, source)
    for suitable in sources.split(" or "):
        assert Estimator(made, None, suitable).bundle is made


def test_distorted_frame_is_refused(estimator):
    camera = CameraModel(192, 96, 150.0, 150.0, 95.5, 47.5, Distortion("plumb_bob", (0.1, 0, 0, 0, 0)))
    with pytest.raises(InputError, match="rectify"):
        estimator.predict([painted(50, 30, camera)])


def test_aspect_warning_names_both_aspects(estimator):
    assert estimator.aspect_warning(CAMERA) is None
    assert estimator.aspect_warning(CameraModel(192, 96, 165.0, 150.0, 95.5, 47.5)) is None  # 10 %
    for fx, found in ((180.0, "1.20"), (120.0, "0.80")):
        warning = estimator.aspect_warning(CameraModel(192, 96, fx, 150.0, 95.5, 47.5))
        assert f"fx/fy {found}" in warning
        assert "trained at 1.00" in warning
    # Squeezing 4:3 to 2:1 lowers fy by half more than fx.
    assert "fx/fy 1.50" in estimator.aspect_warning(CameraModel(640, 480, 500.0, 500.0, 320.0, 240.0))


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 5.7])
def test_resizing_preserves_linear_ramps(factor):
    # A ramp is its own low-pass, so any correct filter leaves it; one that is off by a fraction of a pixel shows here.
    height, width = round(40 * factor), round(60 * factor)
    v, u = np.mgrid[0:height, 0:width]
    ramp = 20 + 200 * ((u + 0.5) / width + (v + 0.5) / height) / 2
    image = np.repeat(np.rint(ramp).astype(np.uint8)[..., None], 3, axis=2)
    v, u = np.mgrid[0:40, 0:60]
    expected = 20 + 200 * ((u + 0.5) / 60 + (v + 0.5) / 40) / 2
    resized = resize_image(image, 60, 40)[..., 0]
    np.testing.assert_allclose(resized[1:-1, 1:-1], expected[1:-1, 1:-1], atol=1.1)


@pytest.mark.parametrize("factor", [2, 3, 4, 5, 6])
def test_shrinking_does_not_alias(factor):
    # Columns alternate black and white, finer than the small image can show: it must be near grey. Point sampling, which
    # bilinear is at odd factors, gives 0 and 200; the mean over three columns 67 and 133.
    stripes = np.zeros((32 * factor, 64 * factor, 3), np.uint8)
    stripes[:, ::2] = 200
    resized = resize_image(stripes, 64, 32).astype(int)
    assert np.abs(resized - 100).max() <= 50


def test_resizing_to_the_same_size_is_identity():
    image = np.random.default_rng(0).integers(0, 256, (32, 64, 3), dtype=np.uint8)
    np.testing.assert_array_equal(resize_image(image, 64, 32), image)


def plane(camera, normal, distance):
    """Depth [m] along z of the plane normal . X = distance: z = distance / (normal . ray)."""
    v, u = np.mgrid[0 : camera.height, 0 : camera.width]
    ray = np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones(u.shape)], axis=-1)
    return (distance / (ray @ np.asarray(normal))).astype(np.float32)


def small_prediction(depth, sigma=0.5, camera=CAMERA):
    depth = np.asarray(depth, np.float32)
    return DepthPrediction(depth, np.where(np.isfinite(depth), np.float32(sigma), np.float32(np.nan)), camera.resized(64, 32))


@pytest.mark.parametrize("normal", [(0, 0, 1), (0.5, 0, 1), (0, -0.8, 1), (0.3, 0.6, 1)])
@pytest.mark.parametrize("size", [(192, 96), (256, 64), (150, 70), (64, 32)])
def test_slanted_plane_upsamples_to_the_exact_plane(normal, size):
    camera = CAMERA.resized(*size)
    small = camera.resized(64, 32)
    result = upsample(DepthPrediction(plane(small, normal, 7.0), np.full((32, 64), 0.5, np.float32), small), camera)
    border_u, border_v = size[0] // 64, size[1] // 32  # half a network pixel and rounding
    inner = (slice(border_v, -border_v), slice(border_u, -border_u))
    np.testing.assert_allclose(result.depth[inner], plane(camera, normal, 7.0)[inner], rtol=2e-4)
    np.testing.assert_allclose(result.sigma, 0.5, rtol=1e-6)
    assert result.camera == camera


@pytest.mark.parametrize("missing", [np.nan, np.inf])
def test_invalid_pixel_stays_its_own_size_and_does_not_spread(missing):
    depth = np.full((32, 64), 5.0)
    depth[10, 20] = missing
    result = upsample(small_prediction(depth), CAMERA)
    expected = np.full((96, 192), 5.0, np.float32)
    expected[30:33, 60:63] = missing  # 3 x 3 pixels per network pixel
    np.testing.assert_allclose(result.depth, expected, rtol=1e-6)
    np.testing.assert_allclose(result.sigma, np.where(np.isfinite(expected), 0.5, np.nan), rtol=1e-6)


def test_upsampled_classes_are_those_of_the_nearest_pixel():
    rng = np.random.default_rng(3)
    depth = rng.uniform(2, 20, (32, 64))
    depth[rng.random((32, 64)) < 0.3] = np.nan
    depth[rng.random((32, 64)) < 0.3] = np.inf
    depth[20:, 40:] = np.nan  # also far from anything finite
    camera = CAMERA.resized(173, 91)
    result = upsample(small_prediction(depth), camera)
    nearest_v = ((np.arange(91) + 0.5) * 32 / 91).astype(int)
    nearest_u = ((np.arange(173) + 0.5) * 64 / 173).astype(int)
    nearest = depth[nearest_v][:, nearest_u]
    np.testing.assert_array_equal(np.isnan(result.depth), np.isnan(nearest))
    np.testing.assert_array_equal(np.isposinf(result.depth), np.isposinf(nearest))
    np.testing.assert_array_equal(np.isnan(result.sigma), ~np.isfinite(nearest))
    finite = result.depth[np.isfinite(result.depth)]
    known = depth[np.isfinite(depth)]
    assert finite.min() >= known.min() * (1 - 1e-5)
    assert finite.max() <= known.max() * (1 + 1e-5)


def test_sky_does_not_pull_the_horizon_away():
    depth = np.full((32, 64), 10.0)
    depth[:16] = np.inf
    result = upsample(small_prediction(depth), CAMERA)
    np.testing.assert_allclose(result.depth[48:], 10.0, rtol=1e-6)
    assert np.isposinf(result.depth[:48]).all()


def test_upsampling_a_prediction_without_any_finite_pixel():
    result = upsample(small_prediction(np.full((32, 64), np.inf)), CAMERA)
    assert np.isposinf(result.depth).all()
    assert np.isnan(result.sigma).all()


def test_upsampling_to_its_own_size_is_identity():
    small = CAMERA.resized(64, 32)
    prediction = small_prediction(np.random.default_rng(0).uniform(1, 9, (32, 64)))
    result = upsample(prediction, small)
    np.testing.assert_array_equal(result.depth, prediction.depth)
    np.testing.assert_array_equal(result.sigma, prediction.sigma)


def test_estimator_needs_neither_torch_nor_ros():
    code = (
        "import sys\n"
        "sys.modules.update({name: None for name in ('torch', 'rclpy', 'sensor_msgs', 'training')})\n"
        "import depth_ros.estimator, depth_ros.cloud, depth_ros.images, depth_ros.worker, depth_ros.metrics\n"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr

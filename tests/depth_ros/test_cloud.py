"""Points against the pinhole equations written out; edges on steps, ramps and planes."""

import math
from collections import defaultdict

import numpy as np
import pytest

from depth_ros.cloud import POINT_DTYPE, CloudBuilder, depth_edges, voxel_grid
from depth_ros.engines import EngineOptions, load_engine
from depth_ros.estimator import Estimator, upsample
from depth_ros.types import CameraModel, DepthPrediction, Frame, InputError

CAMERA = CameraModel(64, 32, 50.0, 48.0, 31.0, 15.0)
IMAGE = np.zeros((32, 64, 3), np.uint8)


def predicted(depth, sigma=0.1, camera=CAMERA):
    depth = np.broadcast_to(np.asarray(depth, np.float32), (camera.height, camera.width)).copy()
    sigma = np.broadcast_to(np.asarray(sigma, np.float32), depth.shape)
    return DepthPrediction(depth, np.where(np.isfinite(depth), sigma, np.float32(np.nan)), camera)


def kept(points):
    return ~np.isnan(points["z"])


def road(camera, height_m=1.65):
    """Depth [m] of the ground below the camera; +inf above the horizon and beyond 80 m."""
    v = np.mgrid[0 : camera.height, 0 : camera.width][0]
    with np.errstate(divide="ignore"):
        depth = height_m * camera.fy / np.maximum(v - camera.cy, 0)
    return np.where(depth < 80, depth, np.inf).astype(np.float32)


def test_layout_is_that_of_pointcloud2():
    assert POINT_DTYPE.itemsize == 20
    assert {name: POINT_DTYPE.fields[name][1] for name in POINT_DTYPE.names} == {"x": 0, "y": 4, "z": 8, "rgb": 12, "sigma": 16}


def test_wall_at_5_m_through_the_estimator_is_a_flat_cloud(make_bundle):
    made = make_bundle()
    camera = CameraModel(192, 96, 150.0, 150.0, 95.5, 47.5)
    image = np.full((96, 192, 3), (50, 30, 0), np.uint8)
    (prediction,) = Estimator(made, load_engine(made, options=EngineOptions(threads=1))).predict(
        [Frame(image, camera, 0, "camera")]
    )
    points = CloudBuilder(prediction.camera).build(prediction, IMAGE, 0.5, 0.1)
    u, v = np.meshgrid(np.arange(64), np.arange(32))
    assert points.shape == (32, 64)
    np.testing.assert_allclose(points["z"], 5.0, rtol=1e-6)
    np.testing.assert_allclose(points["x"], (u - prediction.camera.cx) / prediction.camera.fx * 5.0, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(points["y"], (v - prediction.camera.cy) / prediction.camera.fy * 5.0, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(points["sigma"], 0.3, rtol=1e-6)


def test_points_are_right_and_down_of_the_principal_point():
    point = CloudBuilder(CAMERA).build(predicted(10.0), IMAGE, 0, 0)[20, 41]
    assert point["x"] == pytest.approx((41 - 31) / 50 * 10)
    assert point["y"] == pytest.approx((20 - 15) / 48 * 10)


def test_colour_is_packed_as_0x00rrggbb():
    image = IMAGE.copy()
    image[3, 4] = (0x12, 0xAB, 0xFE)
    image[5, 6] = (0xFF, 0xFF, 0xFF)
    packed = np.ascontiguousarray(CloudBuilder(CAMERA).build(predicted(5.0), image, 0, 0)["rgb"]).view("<u4")
    assert packed[3, 4] == 0x0012ABFE
    assert packed[5, 6] == 0x00FFFFFF
    assert packed[0, 0] == 0


@pytest.mark.parametrize("stride", [1, 2, 3, 5])
def test_stride_takes_every_nth_point_of_the_full_cloud(stride):
    rng = np.random.default_rng(0)
    depth = rng.uniform(1, 9, (32, 64))
    depth[rng.random((32, 64)) < 0.1] = np.nan
    image = rng.integers(0, 256, (32, 64, 3), dtype=np.uint8)
    whole = CloudBuilder(CAMERA).build(predicted(depth), image, 0, 0)
    some = CloudBuilder(CAMERA, stride).build(predicted(depth), image, 0, 0)
    assert some.flags.c_contiguous
    assert some.tobytes() == np.ascontiguousarray(whole[::stride, ::stride]).tobytes()


@pytest.mark.parametrize("missing", [np.nan, np.inf])
def test_pixels_without_finite_depth_are_nan_points(missing):
    depth = np.full((32, 64), 5.0)
    depth[4, 7] = missing
    points = CloudBuilder(CAMERA).build(predicted(depth), IMAGE, 0, 0)
    for name in ("x", "y", "z", "sigma"):
        assert np.isnan(points[name][4, 7])
        assert np.isfinite(points[name]).sum() == 32 * 64 - 1


def test_uncertain_points_are_removed_relative_to_their_depth():
    depth, sigma = np.full((32, 64), 10.0), np.full((32, 64), 1.0)
    sigma[0, 0], sigma[0, 1] = 2.1, 1.9
    depth[0, 2], sigma[0, 2] = 20.0, 3.9
    points = CloudBuilder(CAMERA).build(predicted(depth, sigma), IMAGE, 0.2, 0)
    assert np.argwhere(~kept(points)).tolist() == [[0, 0]]
    assert np.isnan(points["sigma"][0, 0])
    assert kept(CloudBuilder(CAMERA).build(predicted(depth, sigma), IMAGE, 0, 0)).all()


@pytest.mark.parametrize("transposed", [False, True])
def test_points_beside_a_step_are_removed_and_no_others(transposed):
    depth = np.full((32, 32), 5.0, np.float32)
    depth[:, 16:] = 10.0
    edges = depth_edges(depth.T if transposed else depth, 0.2)
    expected = np.zeros((32, 32), bool)
    expected[:, 14:18] = True  # the two pixels at the step and one beside each
    np.testing.assert_array_equal(edges, expected.T if transposed else expected)


def test_flying_pixel_in_the_middle_of_a_blurred_step_is_removed():
    # Halfway in inverse depth between 5 and 20 m the surface is locally straight, yet nothing is there.
    inverse = np.full((32, 64), 1 / 5)
    inverse[:, 30] = (1 / 5 + 1 / 20) / 2
    inverse[:, 31:] = 1 / 20
    points = CloudBuilder(CAMERA).build(predicted(1 / inverse), IMAGE, 0, 0.1)
    left = points["z"][kept(points)]
    assert set(np.round(left, 3).tolist()) == {5.0, 20.0}
    assert kept(points).mean() > 0.9


@pytest.mark.parametrize("normal", [(0.9, 0, 0.43), (0, -0.95, 0.31), (0.6, 0.6, 0.52), (-0.8, 0.3, 0.6)])
def test_slanted_planes_are_untouched(normal):
    # z = d / (n . ray); these planes stay in front of the camera all over the image.
    u, v = np.meshgrid(np.arange(64), np.arange(32))
    facing = normal[0] * (u - 31.0) / 500 + normal[1] * (v - 15.0) / 480 + normal[2]
    assert facing.min() > 0
    camera = CameraModel(64, 32, 500.0, 480.0, 31.0, 15.0)
    points = CloudBuilder(camera).build(predicted(3.0 / facing, camera=camera), IMAGE, 0, 0.01)
    assert kept(points).all()


def test_the_road_is_kept_to_the_last_rows_before_the_horizon():
    # Rows are 10 m apart at 60 m: a test on the ratio of neighbouring depths would cut the road off.
    camera = CameraModel(416, 128, 240.0, 245.0, 208.0, 60.0)
    depth = road(camera)
    rows = np.flatnonzero(np.isfinite(depth[:, 0]))
    ratio = depth[rows[:-1], 0] / depth[rows[1:], 0]
    assert ratio.max() > 1.1
    image = np.zeros((128, 416, 3), np.uint8)
    points = CloudBuilder(camera).build(predicted(depth, camera=camera), image, 0, 0.05)
    gone = np.flatnonzero(~kept(points)[:, 200])
    assert np.isin(gone[gone >= rows[0]], rows[:2]).all()  # only where it meets +inf
    on_road = kept(points)
    np.testing.assert_allclose(points["y"][on_road], 1.65, rtol=1e-4)


def test_edge_of_an_upsampled_prediction_is_removed_at_its_full_width():
    # Up-sampled threefold, a step becomes a ramp of three pixels; none of its points may remain.
    small = CameraModel(64, 32, 50.0, 50.0, 31.5, 15.5)
    large = small.resized(192, 96)
    depth = np.full((32, 64), 4.0, np.float32)
    depth[:, 40:] = 12.0
    prediction = upsample(predicted(depth, camera=small), large)
    ramp = (prediction.depth > 4.01) & (prediction.depth < 11.9)
    assert ramp.any()
    image = np.zeros((96, 192, 3), np.uint8)
    points = CloudBuilder(large, edge_span=3).build(prediction, image, 0, 0.1)
    assert not (kept(points) & ramp).any()
    assert kept(points).mean() > 0.9


def test_invalid_pixels_make_no_edge():
    depth = np.full((32, 64), 5.0, np.float32)
    depth[10:14, 20:30] = np.nan
    assert not depth_edges(depth, 0.05).any()


def test_images_smaller_than_the_span_have_no_edges():
    assert not depth_edges(np.array([[1.0, 9.0], [1.0, 9.0]], np.float32), 0.1).any()
    assert not depth_edges(np.full((5, 7), 3.0, np.float32), 0.1, span=4).any()


def test_each_cloud_overwrites_the_last_one_completely():
    builder = CloudBuilder(CAMERA)
    spoiled = np.full((32, 64), np.nan)
    spoiled[0, 0] = 3.0
    builder.build(predicted(spoiled), np.full((32, 64, 3), 255, np.uint8), 0, 0)
    again = builder.build(predicted(5.0), IMAGE, 0, 0)
    assert again.tobytes() == CloudBuilder(CAMERA).build(predicted(5.0), IMAGE, 0, 0).tobytes()


def test_input_is_left_alone():
    depth = np.full((32, 64), 5.0)
    depth[:, 32:] = 50.0
    prediction, image = predicted(depth), np.full((32, 64, 3), 9, np.uint8)
    before = prediction.depth.copy(), prediction.sigma.copy()
    CloudBuilder(CAMERA).build(prediction, image, 0.001, 0.1)
    np.testing.assert_array_equal(prediction.depth, before[0])
    np.testing.assert_array_equal(prediction.sigma, before[1])
    assert (image == 9).all()


def test_prediction_of_another_camera_is_refused():
    other = CameraModel(64, 32, 60.0, 48.0, 31.0, 15.0)
    with pytest.raises(InputError, match=r"fx=60\.0"):
        CloudBuilder(CAMERA).build(predicted(5.0, camera=other), IMAGE, 0, 0)
    with pytest.raises(InputError, match=r"\(96, 192, 3\)"):
        CloudBuilder(CAMERA).build(predicted(5.0), np.zeros((96, 192, 3), np.uint8), 0, 0)


def test_stride_must_be_positive():
    with pytest.raises(InputError, match="stride is 0"):
        CloudBuilder(CAMERA, stride=0)


def made(xyz, colors=(0,), sigma=0.1):
    points = np.zeros(len(xyz), POINT_DTYPE)
    for name, column in zip("xyz", np.transpose(xyz), strict=True):
        points[name] = column
    points["rgb"] = np.broadcast_to(np.array(colors, "<u4"), len(xyz)).copy().view("<f4")
    points["sigma"] = sigma
    return points


def packed(points):
    return np.ascontiguousarray(points["rgb"]).view("<u4")


def test_voxels_against_a_dictionary():
    rng = np.random.default_rng(0)
    size = 0.7
    organised = np.zeros((20, 30), POINT_DTYPE)
    for name, low, high in (("x", -4, 4), ("y", -2, 2), ("z", 1, 9), ("sigma", 0.1, 2)):
        organised[name] = rng.uniform(low, high, (20, 30))
    colors = rng.integers(0, 256, (20, 30, 3))
    organised["rgb"] = (colors @ (1 << 16, 1 << 8, 1)).astype("<u4").view("<f4")
    organised["z"][rng.random((20, 30)) < 0.1] = np.nan
    cubes = defaultdict(list)
    for point, color in zip(organised.ravel().tolist(), colors.reshape(-1, 3).tolist(), strict=True):
        if not math.isnan(point[2]):
            cubes[tuple(math.floor(np.float32(value) / np.float32(size)) for value in point[:3])].append((point, color))
    voxels = voxel_grid(organised, size)
    assert (voxels.shape, voxels.dtype) == ((len(cubes),), POINT_DTYPE)
    found = {tuple(math.floor(value / size) for value in voxel[:3]): voxel for voxel in voxels.tolist()}
    colors_found = dict(zip(found, packed(voxels).tolist(), strict=True))
    assert set(found) == set(cubes)
    for cube, members in cubes.items():
        x, y, z, _, sigma = found[cube]
        np.testing.assert_allclose((x, y, z), np.mean([point[:3] for point, _ in members], axis=0), rtol=1e-5, atol=1e-6)
        assert sigma == pytest.approx(np.mean([point[4] for point, _ in members]), rel=1e-5)
        color = colors_found[cube]
        mean = np.mean([color for _, color in members], axis=0)
        np.testing.assert_allclose((color >> 16, color >> 8 & 255, color & 255), mean, atol=0.501)


def test_cubes_begin_at_the_camera_on_either_side():
    found = voxel_grid(made([(-0.1, 0, 1), (0.1, 0, 1), (0.9, 0, 1), (1.1, 0, 1)]), 1.0)
    np.testing.assert_allclose(np.sort(found["x"]), [-0.1, 0.5, 1.1], rtol=1e-6)


def test_many_points_of_a_voxel_are_no_more_certain_than_one():
    (one,) = voxel_grid(made([(0.1, 0.1, 5.1)] * 400, sigma=0.8), 0.5)
    assert one["sigma"] == pytest.approx(0.8)
    rng = np.random.default_rng(0)
    sigmas = rng.uniform(0.1, 2.0, 50)
    # One error common to all points, each in its own measure: the centroid's is their mean, whatever the error.
    errors = sigmas * rng.normal(size=(20_000, 1))
    (mixed,) = voxel_grid(made([(0.1, 0.1, 5.1)] * 50, sigma=sigmas), 0.5)
    assert mixed["sigma"] == pytest.approx(errors.mean(axis=1).std(), rel=0.02)


def test_colours_are_averaged_by_channel():
    (mean,) = packed(voxel_grid(made([(0.1, 0.1, 1.1)] * 2, [0x00FF0010, 0x0001FF20]), 1.0))
    assert mean == 0x00808018


def test_centroid_of_many_far_points_is_exact():
    (far,) = voxel_grid(made([(79.9, 0.1, 79.9)] * 30_000), 0.5)
    assert far["z"] == np.float32(79.9)


def test_sky_and_dropped_points_are_in_no_voxel():
    depth = np.full((32, 64), 5.0)
    depth[:10], depth[10:12] = np.inf, np.nan
    sigma = np.full((32, 64), 0.1)
    sigma[12:14] = 4.0
    organised = CloudBuilder(CAMERA).build(predicted(depth, sigma), IMAGE, 0.2, 0)
    assert (~kept(organised)).sum() == 14 * 64
    voxels = voxel_grid(organised, 1e-3)
    assert voxels.size == 18 * 64
    assert all(np.isfinite(voxels[name]).all() for name in ("x", "y", "z", "sigma"))
    np.testing.assert_allclose(voxels["z"], 5.0)


def test_a_cloud_without_a_valid_point_has_no_voxels():
    nothing = voxel_grid(CloudBuilder(CAMERA).build(predicted(np.inf), IMAGE, 0, 0), 0.1)
    assert (nothing.shape, nothing.dtype) == ((0,), POINT_DTYPE)


def test_voxels_are_the_answer_s_own():
    builder = CloudBuilder(CAMERA)
    voxels = voxel_grid(builder.build(predicted(5.0), IMAGE, 0, 0), 0.5)
    before = voxels.copy()
    builder.build(predicted(9.0), IMAGE, 0, 0)
    assert voxels.tobytes() == before.tobytes()


@pytest.mark.parametrize("size", [0.0, -1.0, np.nan, np.inf, 1e-9, 1e-50])
def test_voxel_sizes_without_meaning_are_refused(size):
    with pytest.raises(InputError, match="voxel size is"):
        voxel_grid(made([(-50, -50, 1), (50, 50, 80)]), size)

"""Range sensors seen from the camera, against brute force and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from depth_ros.scale import NoMeasurement
from depth_ros.scale.poses import OPTICAL_T_BODY, pose_from_text
from depth_ros.scale.projection import cone_sample, image_samples, project, scan_points
from depth_ros.types import CameraModel, DepthPrediction

CAMERA = CameraModel(40, 30, 35.0, 32.0, 18.3, 15.7)


def by_pixel(samples):
    assert len(set(zip(samples.u.tolist(), samples.v.tolist(), strict=True))) == samples.u.size
    return {(u, v): z for u, v, z in zip(samples.u.tolist(), samples.v.tolist(), samples.depth.tolist(), strict=True)}


def test_points_land_where_a_loop_puts_them_and_the_nearest_of_a_pixel_counts():
    rng = np.random.default_rng(0)
    optical_T_sensor = OPTICAL_T_BODY @ pose_from_text("0.3 -0.2 0.1 0.05 -0.1 0.2")
    points = rng.uniform([-3, -8, -4], [12, 8, 4], (4000, 3))
    points[::50] = np.nan
    expected: dict[tuple[int, int], float] = {}
    for point in points:
        x, y, z, _ = optical_T_sensor @ [*point, 1.0]
        if not z > 0.05:
            continue
        u, v = math.floor(35.0 * x / z + 18.3 + 0.5), math.floor(32.0 * y / z + 15.7 + 0.5)
        if 0 <= u < 40 and 0 <= v < 30:
            expected[u, v] = min(z, expected.get((u, v), math.inf))
    samples = project(points, optical_T_sensor, CAMERA)
    found = by_pixel(samples)
    assert len(expected) > 500
    assert found.keys() == expected.keys()
    np.testing.assert_allclose([found[key] for key in expected], list(expected.values()))
    assert samples.sent == 4000


def test_no_point_in_view_is_no_sample():
    assert project(np.array([[-5.0, 0, 0]]), OPTICAL_T_BODY, CAMERA).u.size == 0
    assert project(np.zeros((0, 3)), OPTICAL_T_BODY, CAMERA).u.size == 0


def test_a_lidar_before_and_above_the_camera():
    """0.5 m before and 0.2 m above: a point 4 m ahead of it is 4.5 m away and 0.2 m up; one to its left is left."""
    pose = OPTICAL_T_BODY @ pose_from_text("0.5 0 0.2 0 0 0")
    ahead, left = np.array([[4.0, 0, 0]]), np.array([[4.0, 1.0, 0]])
    assert by_pixel(project(ahead, pose, CAMERA)) == {(18, round(15.7 - 32 * 0.2 / 4.5)): pytest.approx(4.5)}
    assert by_pixel(project(left, pose, CAMERA)).keys() == {(round(18.3 - 35 / 4.5), 14)}


def test_scan_angles_run_anticlockwise_from_straight_ahead():
    ranges = np.array([1.0, 2.0, 0.05, np.inf, np.nan, 3.0, 99.0])
    points = scan_points(ranges, -math.pi / 2, math.pi / 4, 0.1, 30.0)
    expected = [[0, -1, 0], [math.sqrt(2), -math.sqrt(2), 0], [-3 * math.sqrt(0.5), 3 * math.sqrt(0.5), 0]]
    np.testing.assert_allclose(points, expected, atol=1e-12)


def test_a_sparse_depth_image_of_another_resolution():
    """Of the pixels that fall together the nearest counts; 0, NaN and inf are no measurement."""
    depth = np.zeros((60, 80))
    depth[0, 0], depth[1, 1], depth[59, 79] = 5.0, 3.0, 8.0
    depth[30, 40], depth[31, 60] = np.nan, np.inf
    assert by_pixel(image_samples(depth, CAMERA)) == {(0, 0): 3.0, (39, 29): 8.0}
    same = np.zeros((30, 40))
    same[7, 11] = 4.0
    assert by_pixel(image_samples(same, CAMERA)) == {(11, 7): 4.0}


def wall(depth):
    return DepthPrediction(np.full((30, 40), depth, np.float32), np.full((30, 40), 0.1, np.float32), CAMERA)


def test_a_cone_measures_the_nearest_thing_in_it():
    """A post of half the wall's predicted depth stands in a 20 degree cone: the measured 2 m are the post's."""
    prediction = wall(3.0)
    prediction.depth[12:20, 17:21] = 1.5
    samples = cone_sample(2.0, math.radians(20), OPTICAL_T_BODY, prediction)
    ((pixel, z),) = by_pixel(samples).items()
    assert prediction.depth[pixel[1], pixel[0]] == 1.5
    ray = np.array([(pixel[0] - 18.3) / 35, (pixel[1] - 15.7) / 32, 1.0])
    assert np.linalg.norm(z * ray) == pytest.approx(2.0)


def test_a_cone_beside_the_camera_is_measured_from_where_it_sits():
    """0.4 m before the camera: 2 m from it are 2.4 m from the camera, on the axis."""
    pose = OPTICAL_T_BODY @ pose_from_text("0.4 0 0 0 0 0")
    samples = cone_sample(2.0, math.radians(4), pose, wall(1.2))
    ((_, z),) = by_pixel(samples).items()
    assert z == pytest.approx(2.4, rel=2e-3)


def test_a_cone_that_looks_elsewhere():
    behind = OPTICAL_T_BODY @ pose_from_text("0 0 0 0 0 3.14159")
    with pytest.raises(NoMeasurement, match="cone meets no depth"):
        cone_sample(2.0, math.radians(20), behind, wall(3.0))

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from depth_ros.cloud import POINT_DTYPE
from depth_ros.tools import preview
from depth_ros.tools.painter import PerspectiveView, TopView, draw_points, frustum, look_at
from depth_ros.tools.preview import Limits
from depth_ros.tools.recording import Answer
from depth_ros.types import CameraModel

CAMERA = CameraModel(200, 100, 80.0, 80.0, 99.5, 49.5)
RED, GREEN, BLUE = (0, 0, 255), (0, 255, 0), (255, 0, 0)


def painted(view, points, colours, footprint=0.0, size=(100, 200)):
    image = np.zeros((*size, 3), np.uint8)
    draw_points(image, view, np.array(points, float), np.array(colours, np.uint8), np.full(len(points), footprint))
    return image


def test_point_lands_on_its_pinhole_pixel():
    view = PerspectiveView(CAMERA, np.eye(4))
    image = painted(view, [(1.0, -0.5, 4.0)], [RED])  # u = 80 * 1 / 4 + 99.5 = 119.5, v = 80 * -0.5 / 4 + 49.5 = 39.5
    rows, columns = np.nonzero(image.any(axis=2))
    assert abs(rows[0] - 39.5) <= 0.5
    assert abs(columns[0] - 119.5) <= 0.5
    assert len(rows) == 1
    assert tuple(image[rows[0], columns[0]]) == RED


def test_near_point_covers_far_point_in_either_order():
    view = PerspectiveView(CAMERA, np.eye(4))
    near, far = (0.1, 0.0, 2.0), (0.4, 0.0, 8.0)  # the same ray
    for points, colours in (((near, far), (RED, BLUE)), ((far, near), (BLUE, RED))):
        image = painted(view, points, colours)
        assert {tuple(pixel) for pixel in image[image.any(axis=2)]} == {RED}


def test_point_behind_the_eye_or_outside_or_invalid_is_left_out():
    view = PerspectiveView(CAMERA, np.eye(4))
    assert not painted(view, [(0, 0, -1), (100, 0, 1), (np.nan, np.nan, np.nan)], [RED, GREEN, BLUE]).any()


def test_square_covers_the_footprint():
    view = PerspectiveView(CAMERA, np.eye(4))
    image = painted(view, [(0.0, 0.0, 4.0)], [GREEN], footprint=0.15)  # 80 / 4 * 0.15 = 3 px
    rows, columns = np.nonzero(image.any(axis=2))
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1, len(rows)) == (3, 3, 9)


def test_view_from_behind_sees_the_target_in_the_middle_and_up_is_up():
    view = look_at(CAMERA, eye=(0.0, -2.0, -4.0), target=(0.0, 0.0, 6.0))
    pixels, distance, _ = view.project(np.array([[0.0, 0.0, 6.0], [0.0, -1.0, 6.0], [1.0, 0.0, 6.0]]))
    np.testing.assert_allclose(pixels[0], (CAMERA.cx, CAMERA.cy), atol=1e-9)
    assert distance[0] == pytest.approx(np.hypot(2.0, 10.0))
    assert pixels[1, 1] < pixels[0, 1]  # y points down: the point one metre higher is drawn above
    assert pixels[2, 0] > pixels[0, 0]


def test_top_view_is_to_scale_and_higher_covers_lower():
    view = TopView(width=201, height=101, scale=10.0, margin=20)
    pixels, _, _ = view.project(np.array([[0.0, 0.0, 0.0], [3.0, 1.0, 5.0]]))
    np.testing.assert_allclose(pixels, [(100, 80), (130, 30)])
    image = painted(view, [(0, 1.5, 3), (0, -1.5, 3)], [RED, BLUE], size=(101, 201))  # ground, and a roof over it
    assert {tuple(pixel) for pixel in image[image.any(axis=2)]} == {BLUE}


def test_frustum_ends_at_the_images_corners():
    far = frustum(CAMERA, 4.0)[-1]
    u = CAMERA.fx * far[:, 0] / far[:, 2] + CAMERA.cx
    v = CAMERA.fy * far[:, 1] / far[:, 2] + CAMERA.cy
    np.testing.assert_allclose(np.stack([u, v], 1)[:4], [(-0.5, -0.5), (199.5, -0.5), (199.5, 99.5), (-0.5, 99.5)])
    np.testing.assert_allclose(far[:, 2], 4.0)


@pytest.fixture
def wall() -> Answer:
    """A green wall at 5 m with sigma 0.5 m; its right half is out of range."""
    depth = np.full((100, 200), 5.0, np.float32)
    depth[:, 100:] = np.inf
    sigma = np.where(np.isfinite(depth), np.float32(0.5), np.float32(np.nan))
    cloud = np.full((100, 200), np.nan, POINT_DTYPE)
    v, u = np.mgrid[:100, :100]
    cloud["z"][:, :100] = 5.0
    cloud["x"][:, :100] = (u - CAMERA.cx) / CAMERA.fx * 5
    cloud["y"][:, :100] = (v - CAMERA.cy) / CAMERA.fy * 5
    cloud["rgb"] = np.array(0x0000FF00, np.uint32).view(np.float32)
    image = np.full((100, 200, 3), (0, 255, 0), np.uint8)
    return Answer(
        stamp_ns=10**9, receipt_ns=10**9 + 40_000_000, image=image, depth=depth, sigma=sigma, cloud=cloud, camera=CAMERA
    )


def test_limits_hold_the_pixels(wall):
    limits = Limits.of([wall])
    assert limits.min_depth == pytest.approx(5.0)
    assert limits.max_depth >= 5.0
    assert limits.max_relative_sigma == pytest.approx(0.12)  # 10 %, up to the next round quarter


def test_limits_of_nothing_valid_are_still_a_scale(wall):
    empty = replace(wall, depth=np.full_like(wall.depth, np.nan))
    limits = Limits.of([empty])
    assert 0 < limits.min_depth < limits.max_depth
    assert preview.draw(empty, limits).shape == (preview.HEIGHT, preview.WIDTH, 3)


def test_wall_is_drawn_left_of_the_axis_at_its_distance_from_above(wall):
    limits = Limits(1.0, 10.0, 0.2)
    panel = np.zeros((448, 700, 3), np.uint8)
    preview._from_above(panel, wall, limits)
    scale = (448 - 48) / 10.0
    rows, columns = np.nonzero((panel == GREEN).all(axis=2))
    assert np.median(rows) == pytest.approx(447 - 28 - 5.0 * scale, abs=3)
    assert columns.max() <= 350 + 3
    assert columns.min() == pytest.approx(349.5 - 99.5 / 80 * 5 * scale, abs=4)


def test_picture_shows_the_image_unchanged_in_colour_and_black_where_sigma_is_unknown(wall):
    picture = preview.draw(wall, Limits.of([wall]))
    assert (picture == GREEN).all(axis=2).mean() > 0.05
    row = (preview.HEIGHT - preview.HEADER) // 3
    uncertainty = picture[preview.HEADER + 2 * row + preview.TITLE + 20 :, preview.GAP :]
    height = row - preview.TITLE - preview.GAP
    assert not uncertainty[: height - 40, height + 10 : 2 * height - 10].any()
    assert uncertainty[: height - 40, 10 : height - 10].any(axis=2).all()


def test_film_and_picture_are_readable_and_in_real_time(wall, tmp_path: Path, write_recording):
    recording = write_recording([replace(wall, stamp_ns=wall.stamp_ns + i * 200_000_000) for i in range(4)])  # 5 Hz
    preview.write_preview(recording, tmp_path / "film.mp4", tmp_path / "picture.png")
    film = cv2.VideoCapture(str(tmp_path / "film.mp4"))
    assert film.get(cv2.CAP_PROP_FRAME_COUNT) == 4
    assert film.get(cv2.CAP_PROP_FPS) == pytest.approx(5.0)
    assert cv2.imread(str(tmp_path / "picture.png")).shape == (preview.HEIGHT, preview.WIDTH, 3)


def test_film_that_cannot_be_written_is_an_error(wall, tmp_path: Path, write_recording):
    recording = write_recording([wall])
    with pytest.raises(OSError, match=r"film\.mp4"):
        preview.write_preview(recording, tmp_path / "missing" / "film.mp4", tmp_path / "picture.png")

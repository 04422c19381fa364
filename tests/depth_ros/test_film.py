from __future__ import annotations

import cv2
import numpy as np
import pytest

from depth_ros.tools.film import LARGEST, Film, draw
from depth_ros.tools.preview import BACKGROUND, BAR, GAP, TITLE, Limits
from depth_ros.types import CameraModel, DepthPrediction

LIMITS = Limits(1.0, 80.0, 0.35)
RED = (255, 0, 0)  # RGB


def wall(width: int, height: int, depth: float, sigma: float = 0.1) -> tuple[np.ndarray, DepthPrediction]:
    camera = CameraModel(width, height, 100.0, 100.0, width / 2, height / 2)
    values = [np.full((height, width), value, np.float32) for value in (depth, sigma)]
    return np.full((height, width, 3), RED, np.uint8), DepthPrediction(*values, camera)


@pytest.mark.parametrize(("size", "columns"), [((1242, 375), 1), ((480, 640), 3), ((3840, 2160), 3), ((8, 6), 3)])
def test_panels_stand_where_they_find_room(size, columns):
    """Below each other where the image is wide, beside each other where not; image, near depth and no sigma by their colours."""
    picture = draw(*wall(*size, depth=1.0, sigma=np.nan), LIMITS, "")
    height, width = picture.shape[:2]
    assert width <= LARGEST[0]
    assert height <= LARGEST[1]
    assert (width % 2, height % 2) == (0, 0)
    step = ((width - GAP) // 3, 0) if columns == 3 else (0, (height - GAP) // 3)
    first = GAP + 2, TITLE + 2
    colours = [picture[first[1] + n * step[1], first[0] + n * step[0]].tolist() for n in range(3)]
    assert colours[0] == [0, 0, 255]
    nearest = cv2.applyColorMap(np.array([[255]], np.uint8), cv2.COLORMAP_TURBO)[0, 0]
    np.testing.assert_allclose(colours[1], nearest, atol=3)
    assert colours[2] == [0, 0, 0]
    assert picture[0, 0].tolist() == list(BACKGROUND)
    assert width >= GAP + columns * BAR


def test_film_keeps_its_size_and_rate_when_the_camera_changes(tmp_path):
    film = Film(tmp_path / "film.mp4", 12.5, LIMITS)
    for size in ((320, 240), (320, 240), (640, 200)):
        film.add(*wall(*size, depth=5.0), "caption")
    film.close()
    capture = cv2.VideoCapture(str(tmp_path / "film.mp4"))
    height, width = draw(*wall(320, 240, depth=5.0), LIMITS, "").shape[:2]
    properties = (cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_FPS, cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
    assert [capture.get(item) for item in properties] == [3, 12.5, width, height]


def test_a_film_that_cannot_be_written_is_said_at_once(tmp_path):
    film = Film(tmp_path / "nowhere" / "film.mp4", 10.0, LIMITS)
    with pytest.raises(OSError, match=r"film\.mp4: this video cannot be written"):
        film.add(*wall(64, 48, depth=5.0), "")
    film.close()


def test_a_film_that_lost_its_end_is_not_taken_for_whole(tmp_path):
    film = Film(tmp_path / "film.mp4", 10.0, LIMITS)
    film.add(*wall(64, 48, depth=5.0), "")
    (tmp_path / "film.mp4").unlink()  # what is written from now on is lost
    with pytest.raises(OSError, match="holds 0 pictures of 1"):
        film.close()

"""Make3D: the documented crop of image and truth, and the camera of the cropped image."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.io import savemat

from depth_ros.types import InputError
from training.config import DataConfig
from training.data.clips import Clips
from training.data.recording import Target
from training.data.sources import open_source
from training.data.truth import open_evaluation_set

WIDTH, HEIGHT = 1704, 2272
NAME = "math7-p-282t0"


def write_grid(file: Path) -> np.ndarray:
    """Depth 1 + row in the fourth channel, which no other channel holds; returned whole."""
    grid = np.zeros((55, 305, 4))
    grid[..., :3] = -7
    grid[..., 3] = 1 + np.arange(55)[:, None]
    file.parent.mkdir(exist_ok=True)
    savemat(file, {"Position3DGrid": grid})
    return grid[..., 3]


def write_image(file: Path, marks: tuple[tuple[int, int], ...] = ()) -> None:
    """A dark portrait with bright squares of 32 pixels around the marks (row, column)."""
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for row, column in marks:
        picture[row - 16 : row + 16, column - 16 : column + 16] = 255
    file.parent.mkdir(exist_ok=True)
    cv2.imwrite(str(file), picture)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_image(tmp_path / "Test134" / f"img-{NAME}.jpg", marks=((800, 400), (690, 900)))
    write_grid(tmp_path / "Gridlaserdata" / f"depth_sph_corr-{NAME}.mat")
    return tmp_path


def open_part(root: Path, part: str, **keys: object) -> list[Target]:
    return open_source(DataConfig(root=str(root), source="make3d", **keys), part)


def test_image_and_truth_are_the_same_central_rows(root: Path) -> None:
    """852 of 2272 rows and 21 of 55: rows 710 to 1561 and 17 to 37."""
    (item,) = open_evaluation_set(root, source="make3d")
    assert item.name == f"Test134/img-{NAME}.jpg"
    assert item.frame.image.shape == (852, 1704, 3)
    assert item.truth.shape == (21, 305)
    assert item.truth[:, 0].tolist() == list(range(18, 39))
    bright = np.argwhere(item.frame.image[..., 0] > 128)
    assert bright.mean(axis=0) == pytest.approx((800 - 710 - 0.5, 399.5), abs=0.3)  # the mark above row 710 is gone
    assert (item.frame.camera.fx, item.frame.camera.cy) == pytest.approx((2407.33, 1110.71 - 710))


@pytest.mark.parametrize(("size", "width"), [((800, 400), 852), ((200, 400), 852), ((200, 100), 213)])
def test_an_image_decoded_small_shows_what_its_camera_says(root: Path, size: tuple[int, int], width: int) -> None:
    recording = open_part(root, "test")[0].recording
    full = recording.camera(0)
    image, camera = recording.image(0, least=size)
    assert (camera.width, image.shape[:2]) == (width, (camera.height, camera.width))
    assert image.shape[1] >= size[0]
    assert image.shape[0] >= size[1]
    row, column = np.argwhere(image[..., 0] > 128).mean(axis=0)
    ray = ((column - camera.cx) / camera.fx, (row - camera.cy) / camera.fy)
    assert ray == pytest.approx(((399.5 - full.cx) / full.fx, (89.5 - full.cy) / full.fy), abs=0.3 / camera.fx)


def test_train_and_test_have_their_own_folders(root: Path) -> None:
    with pytest.raises(InputError, match=r"Train400Img: no such folder; expected Make3D's Train400Img with img-\*.jpg"):
        open_part(root, "train")
    for name in ("a", "b", "c"):
        write_image(root / "Train400Img" / f"img-{name}.jpg")
        write_grid(root / "Train400Depth" / f"depth_sph_corr-{name}.mat")
    assert len(open_part(root, "train")) == 3
    (val,) = open_part(root, "val", val_frames=(2, 3))
    sample = Clips([val], (64, 32), offsets=((),), depth=True)[0]
    assert sample.depth.shape == (32, 64)
    # The grid's 21 rows spread over 32; where none falls into a row, nothing is known.
    assert [row.max() for row in sample.depth if row.any()] == list(range(18, 39))


def test_missing_truth_is_counted_and_bad_truth_named(root: Path) -> None:
    write_image(root / "Test134" / "img-other.jpg")
    with pytest.warns(UserWarning, match=r"1 of 2 truth files are missing; the first is .*depth_sph_corr-other.mat"):
        dataset = open_evaluation_set(root, source="make3d")
    assert (len(dataset), len(list(dataset))) == (2, 1)
    file = root / "Gridlaserdata" / f"depth_sph_corr-{NAME}.mat"
    recording = open_part(root, "test")[0].recording if (root / "Test134" / "img-other.jpg").unlink() is None else None
    assert recording is not None
    savemat(file, {"Position3DGrid": np.zeros((55, 305, 3))})
    with pytest.raises(InputError, match=r"math7-p-282t0.mat: found \(55, 305, 3\); expected Position3DGrid \(55, 305, 4\)"):
        recording.depth(0)
    savemat(file, {"other": np.zeros(3)})
    with pytest.raises(InputError, match=r"math7-p-282t0.mat: 'Position3DGrid'; expected Position3DGrid"):
        recording.depth(0)
    file.write_bytes(b"MATLAB 5.0 MAT-file" + bytes(200))
    with pytest.raises(InputError, match=r"math7-p-282t0.mat: .*; expected Position3DGrid"):
        recording.depth(0)
    file.unlink()
    with pytest.raises(InputError, match=r"math7-p-282t0.mat: no such file; expected Make3D's Gridlaserdata beside Test134"):
        open_part(root, "test")


def test_an_image_of_another_size_is_refused(root: Path) -> None:
    cv2.imwrite(str(root / "Test134" / f"img-{NAME}.jpg"), np.zeros((460, 345, 3), np.uint8))
    with pytest.raises(InputError, match=r"img-math7-p-282t0.jpg: is 345x460, but its calibration says 1704x2272"):
        open_part(root, "test")[0].recording.image(0)

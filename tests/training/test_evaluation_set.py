"""Evaluation sets on disk: truth as depth and as disparity, and what is said of a folder that is none."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from depth_ros.types import CameraModel, InputError
from training.data.truth import open_evaluation_set

CAMERA = CameraModel(32, 16, 100.0, 100.0, 15.5, 7.5)
IMAGES = np.random.default_rng(0).integers(0, 256, (4, 16, 32, 3), dtype=np.uint8)
# 100 px x 0.5 m / depth is a whole number of 1/256 px for each of these.
TRUTHS = np.array([2.0, 5.0, 12.5, 40.0], np.float32)[:, None, None] * np.ones((4, 16, 32), np.float32)
TRUTHS[:, :2] = 0.0


@pytest.mark.parametrize("baseline_m", [None, 0.5], ids=["depth", "disparity"])
def test_truth_is_read_in_metres(tmp_path: Path, write_set, baseline_m: float | None) -> None:
    items = list(open_evaluation_set(write_set(tmp_path / "set", CAMERA, IMAGES, TRUTHS, baseline_m)))
    assert [item.frame.frame_id for item in items] == [f"{i:06d}.png" for i in range(4)]
    assert all(np.array_equal(item.frame.image, image) for item, image in zip(items, IMAGES, strict=True))
    assert all(item.frame.camera == CAMERA for item in items)
    assert np.stack([item.truth for item in items]) == pytest.approx(TRUTHS, rel=1e-6)


def test_images_without_truth_are_left_out_and_halves_share_nothing(tmp_path: Path, write_set) -> None:
    folder = write_set(tmp_path / "set", CAMERA, IMAGES, TRUTHS)
    dataset = open_evaluation_set(folder)
    halves = [[item.frame.frame_id for item in dataset.every_second(first)] for first in (0, 1)]
    assert halves == [["000000.png", "000002.png"], ["000001.png", "000003.png"]]
    (folder / "depth" / "000001.png").unlink()
    assert [item.frame.frame_id for item in dataset] == ["000000.png", "000002.png", "000003.png"]


def test_kitti_stereo_2015(shared_data: Path) -> None:
    item = next(iter(open_evaluation_set(shared_data / "kitti2015_stereo")))
    frame, truth = item.frame, item.truth
    disparity = cv2.imread(str(shared_data / "kitti2015_stereo" / "disp" / frame.frame_id).replace(".jpg", ".png"), -1) / 256
    measured = disparity > 0
    assert truth[measured] == pytest.approx(721.5377 * 0.532725 / disparity[measured], rel=1e-5)
    assert not truth[~measured].any()


def test_folders_that_are_no_evaluation_set(tmp_path: Path, write_set) -> None:
    folder = write_set(tmp_path / "set", CAMERA, IMAGES, TRUTHS, 0.5)
    meta = json.loads((folder / "meta.json").read_text())

    def message() -> str:
        with pytest.raises(InputError) as error:
            open_evaluation_set(folder)
        assert "\n" not in str(error.value)
        return str(error.value)

    (folder / "meta.json").write_text(json.dumps(meta | {"width": 64, "height": 32}))
    assert "000000.png is 32x16; expected 64x32" in message()
    (folder / "meta.json").write_text(json.dumps(meta | {"baseline_m": None}))
    assert "expected numbers: depth_scale of depth/, disp_scale and baseline_m of disp/ and right/" in message()
    (folder / "meta.json").write_text(json.dumps(meta))
    (folder / "image").rename(folder / "pictures")
    assert "holds no folder image or left" in message()
    (folder / "pictures").rename(folder / "left")
    (folder / "disp").rename(folder / "truth")
    assert "set: holds no truth; expected 16-bit PNGs named like the images in depth/ or disp/" in message()
    (folder / "meta.json").unlink()
    assert "meta.json" in message()

"""DIML's rooms and streets in both of its published layouts."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from depth_ros.types import InputError
from training.config import DataConfig
from training.data.clips import Clips
from training.data.recording import Target
from training.data.sources import open_source
from training.data.truth import open_evaluation_set

SIZE = (64, 36)


def write(file: Path, value: int, dtype: type = np.uint16, size: tuple[int, int] = SIZE) -> None:
    shape = (*size[::-1], 3) if dtype is None else size[::-1]
    file.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(file), np.full(shape, value, dtype or np.uint8))


def write_room(folder: Path, names: str = "ab", size: tuple[int, int] = SIZE) -> None:
    for index, name in enumerate(names):
        write(folder / "color" / f"in_k_{name}_01_c.png", 9, None, size)
        write(folder / "depth_filled" / f"in_k_{name}_01_depth_filled.png", 1500 * (1 + index), size=size)


def open_part(root: Path, part: str, **keys: object) -> list[Target]:
    return open_source(DataConfig(root=str(root), source="diml", **keys), part)


def test_indoor_samples_are_judged_in_their_test_folder(tmp_path: Path) -> None:
    for part, names in (("train", "abc"), ("test", "de")):
        write_room(tmp_path / part / "HR" / "1. Cafe", names)
        write_room(tmp_path / part / "LR" / "1. Cafe", names, (32, 18))
    items = list(open_evaluation_set(tmp_path, source="diml", split="HR"))
    assert [item.name for item in items] == [f"test/HR/1. Cafe/color/in_k_{name}_01_c.png" for name in "de"]
    assert [item.truth[0, 0] for item in items] == [1.5, 3.0]
    # A Kinect v2's lens, at this size: 1081 px for 1920.
    assert items[0].frame.camera.fx == pytest.approx(1081.37 / 1920 * 64)
    train = open_part(tmp_path, "train", split="LR", train_frames=(0, 2))
    assert [t.recording.image_name(t.index)[-9:] for t in train] == ["a_01_c.png"[-9:], "b_01_c.png"[-9:]]
    sample = Clips(train, (16, 9), offsets=((),), depth=True)[1]
    assert np.unique(sample.depth).tolist() == [3.0]
    with pytest.raises(InputError, match=r"test: holds the same images as HR/ and as LR/; expected data.split: HR"):
        open_part(tmp_path, "test")


def test_train_never_reads_the_test_folder(tmp_path: Path) -> None:
    write_room(tmp_path / "test" / "room")
    with pytest.raises(InputError, match=r"train: holds no images of DIML; expected folders color/ beside depth_filled/"):
        open_part(tmp_path, "train")


def test_the_full_indoor_set_is_split_by_number(tmp_path: Path) -> None:
    for index in range(3):
        folder = tmp_path / f"0{index}. Room" / "160225" / "01"
        write(folder / "col" / "in_k_01_160225_000001_c.png", 9, None)
        write(folder / "up_png" / "in_k_01_160225_000001_ud.png", 1000 + index)
    truths = [t.recording.depth(t.index)[0, 0] for t in open_part(tmp_path, "val", val_frames=(1, 3))]
    assert truths == pytest.approx([1.001, 1.002])


def test_outdoor_truth_counts_where_it_is_confident(tmp_path: Path) -> None:
    """0.9 of 255 is 229.5."""
    for left, truth, conf, suffixes in (
        ("outleft", "depthmap", "confidencemap", ("", "", "")),
        ("left", "depth", "conf", ("_left", "_depth", "_conf")),
    ):
        folder = tmp_path / left
        write(folder / left / f"7{suffixes[0]}.png", 9, None)
        write(folder / truth / f"7{suffixes[1]}.png", 12000)
        confidence = np.full(SIZE[::-1], 230, np.uint8)
        confidence[3, 4], confidence[5, 6] = 229, 0
        (folder / conf).mkdir()
        cv2.imwrite(str(folder / conf / f"7{suffixes[2]}.png"), confidence)
        (target,) = open_part(folder, "test")
        depth = target.recording.depth(0)
        assert (depth[3, 4], depth[5, 6], depth[0, 0]) == (0, 0, 12.0)
        assert (depth > 0).sum() == SIZE[0] * SIZE[1] - 2
        assert target.recording.camera(0).fx == pytest.approx(1400 / 1920 * 64)
    write(tmp_path / "left" / "conf" / "7_conf.png", 255, np.uint8, (8, 8))
    with pytest.raises(InputError, match=r"7_conf.png: \(8, 8\) uint8; expected \(36, 64\) uint8, the size of 7_depth.png"):
        target.recording.depth(0)
    (tmp_path / "left" / "conf" / "7_conf.png").rename(tmp_path / "left" / "conf" / "8_conf.png")
    with pytest.raises(InputError, match=r"7_depth.png: has no confidence map; expected one of the same name"):
        open_part(tmp_path / "left", "test")[0].recording.depth(0)


def test_a_calibration_replaces_the_nominal_camera(tmp_path: Path) -> None:
    write_room(tmp_path / "room")
    meta = {"K": [[50, 0, 30], [0, 51, 17], [0, 0, 1]], "width": SIZE[0], "height": SIZE[1]}
    (tmp_path / "camera.json").write_text(json.dumps(meta))
    (target, _) = open_part(tmp_path, "test", path="room", calibration="camera.json")
    assert (target.recording.camera(0).fy, target.recording.camera(0).cx) == (51, 30)


def test_what_is_missing_is_counted_or_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no images of DIML; expected folders color/ beside depth_filled/, col/ beside"):
        open_part(tmp_path, "test")
    write_room(tmp_path / "room")
    (tmp_path / "room" / "depth_filled" / "in_k_b_01_depth_filled.png").unlink()
    with pytest.warns(UserWarning, match=r"color: 1 of 2 images have no truth in depth_filled/; the first is .*in_k_b_01_c.png"):
        dataset = open_evaluation_set(tmp_path, source="diml")
    assert (len(dataset), len(list(dataset))) == (2, 1)
    write(tmp_path / "room" / "depth_filled" / "in_k_b_01_depth_filled.png", 7, np.uint8)
    with pytest.raises(InputError, match=r"b_01_depth_filled.png: \(36, 64\) uint8; expected a single-channel 16-bit PNG"):
        list(open_evaluation_set(tmp_path, source="diml"))
    (tmp_path / "room" / "depth_filled").rename(tmp_path / "room" / "depth")
    with pytest.raises(InputError, match=r"depth_filled: no such folder; expected DIML's 16-bit PNGs beside the images"):
        open_part(tmp_path, "test")

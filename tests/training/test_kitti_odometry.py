"""KITTI odometry: sequences, missing frames, and poses moved from the grey camera to the one that took the images."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from depth_ros.types import InputError
from training.config import ConfigError, DataConfig
from training.data.clips import Clips
from training.data.sources import open_source

FX, BASELINE_M = 50.0, 0.5
ASIDE_M = -0.06  # of KITTI's left colour camera from the left grey one
TURN = np.array([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])  # a quarter turn to the right: x to the back, z along the world's x


def write_sequence(root: Path, name: str, frames: int, cameras: tuple[int, ...] = (2, 3), turned: bool = False) -> Path:
    """A sequence that moves 1 m forward per frame."""
    folder = root / "sequences" / name
    for camera in cameras:
        (folder / f"image_{camera}").mkdir(parents=True)
        for frame in range(frames):
            cv2.imwrite(str(folder / f"image_{camera}" / f"{frame:06d}.png"), np.full((32, 64), 10 * frame, np.uint8))
    x = {0: 0.0, 1: BASELINE_M, 2: ASIDE_M, 3: ASIDE_M + BASELINE_M}
    lines = [f"P{camera}: {FX} 0 31.5 {-FX * x[camera]} 0 {FX} 15.5 0 0 0 1 0" for camera in range(4)]
    (folder / "calib.txt").write_text("\n".join(lines))
    rotation = TURN if turned else np.eye(3)
    (root / "poses").mkdir(exist_ok=True)
    rows = [np.column_stack([rotation, frame * rotation[:, 2]]).ravel() for frame in range(frames)]
    np.savetxt(root / "poses" / f"{name}.txt", rows)
    return folder


def config(root: Path, split: str, **values: object) -> DataConfig:
    return DataConfig(root=str(root), source="kitti_odometry", split=split, **values)


@pytest.mark.parametrize(("turned", "expected"), [(False, [ASIDE_M, 0, 2]), (True, [2, 0, -ASIDE_M])])
def test_poses_are_those_of_the_camera_that_took_the_images(tmp_path: Path, turned: bool, expected: list[float]) -> None:
    """The file has the grey camera's poses; the colour camera is 6 cm to its left, whichever way it looks."""
    write_sequence(tmp_path, "00", 3, turned=turned)
    left, right = (open_source(config(tmp_path, "00"), "train")[index].recording for index in (0, -1))
    assert left.world_T_camera[2][:3, 3] == pytest.approx(expected)
    to_the_right = (left.world_T_camera[2] @ [BASELINE_M, 0, 0, 1])[:3]
    assert right.world_T_camera[2][:3, 3] == pytest.approx(to_the_right)
    grey = write_sequence(tmp_path, "01", 3, (0, 1), turned)
    assert grey.is_dir()
    recording = open_source(config(tmp_path, "01", stereo=True), "train")[0].recording
    assert recording.world_T_camera[2][:3, 3] == pytest.approx(2 * (TURN if turned else np.eye(3))[:, 2])
    assert recording.baseline_m == pytest.approx(BASELINE_M)


def test_a_split_names_the_sequences_of_its_parts(tmp_path: Path) -> None:
    for name, frames in (("00", 3), ("01", 4), ("02", 5), ("09", 6)):
        write_sequence(tmp_path, name, frames, cameras=(2,))
    sizes = {
        split: [len(open_source(config(tmp_path, split), part)) for part in ("train", "val")]
        for split in ("00-02/09", "01,09/00")
    }
    assert sizes == {"00-02/09": [12, 6], "01,09/00": [10, 3]}
    single = config(tmp_path, "09", train_frames=(0, 4), val_frames=(4, 6))
    assert [len(open_source(single, part)) for part in ("train", "val")] == [4, 2]


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("", r"data.split is ''; expected sequences to train / validate on, for example 00-08/09,10"),
        ("0-8/9", r"data.split is '0-8/9'; expected sequences"),
        ("00-08/08", r"names 08 on both sides"),
        ("00,01", r"names several sequences and none to validate on"),
    ],
)
def test_a_split_that_means_nothing_is_refused(tmp_path: Path, split: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_source(config(tmp_path, split), "train")


def test_there_is_nothing_to_judge_by(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"kitti_odometry has no true depth to judge by"):
        open_source(config(tmp_path, "00"), "test")


def test_missing_frames_are_counted_and_keep_their_poses_apart(tmp_path: Path) -> None:
    folder = write_sequence(tmp_path, "00", 6, cameras=(2,))
    (folder / "image_2" / "000002.png").unlink()
    (folder / "image_2" / "000005.png").unlink()
    with pytest.warns(UserWarning, match=r"2 of 6 images are left out.*image_2 000002"):
        targets = open_source(config(tmp_path, "00"), "train")
    clips = Clips(targets, (64, 32), offsets=((1,),))
    assert (len(clips), clips.skipped) == (2, 2)  # 0 and 3; 1 and 4 have no next frame
    sample = clips[1]
    assert (sample.image[0, 0, 0], sample.views[0].image[0, 0, 0]) == (30, 40)
    assert sample.views[0].source_T_target[:3, 3] == pytest.approx([0, 0, -1])


def test_files_that_are_missing_or_do_not_fit_are_named(tmp_path: Path) -> None:
    folder = write_sequence(tmp_path, "00", 3, cameras=(2,))
    with pytest.raises(InputError, match=r"sequences/00: has no frame in image_2 and image_3"):
        open_source(config(tmp_path, "00", stereo=True), "train")
    poses = tmp_path / "poses" / "00.txt"
    poses.write_text("".join(poses.read_text().splitlines(keepends=True)[:2]))
    with pytest.raises(InputError, match=r"00.txt: holds 2 lines of 12 numbers; expected 3"):
        open_source(config(tmp_path, "00"), "train")
    (folder / "calib.txt").unlink()
    with pytest.raises(InputError, match=r"calib.txt: .*No such file"):
        open_source(config(tmp_path, "00"), "train")


def test_real_grey_frames_in_the_official_layout(shared_data: Path, tmp_path: Path) -> None:
    """Sequence 06 from its own calibration and poses: 0.537 m between the cameras, about 1.2 m forward per frame."""
    real, folder = shared_data / "kitti_odom06_stereo_grey", tmp_path / "sequences" / "06"
    (tmp_path / "poses").mkdir()
    folder.mkdir(parents=True)
    for camera, side in enumerate(("left", "right")):
        (folder / f"image_{camera}").symlink_to(real / side)
    lines = (real / "calib.txt").read_text().splitlines()
    (folder / "calib.txt").write_text("\n".join(f"P{camera}: {line}" for camera, line in enumerate(lines)))
    (tmp_path / "poses" / "06.txt").write_text((real / "poses.txt").read_text())
    clips = Clips(open_source(config(tmp_path, "06", stereo=True), "train"), (192, 64), stereo=True)
    assert (len(clips), clips.skipped) == (98, 4)
    left, right = clips[0], clips[1]
    assert [sample.views[2].source_T_target[0, 3] for sample in (left, right)] == pytest.approx([-0.537151, 0.537151], abs=1e-5)
    rows = np.loadtxt(real / "poses.txt").reshape(-1, 3, 4)
    for sample in (left, right):  # the steps are nearly straight, so both cameras make them
        for view, other in zip(sample.views[:2], (0, 2), strict=True):
            assert view.source_T_target[2, 3] == pytest.approx(rows[1, 2, 3] - rows[other, 2, 3], abs=0.01)
            assert view.speed == pytest.approx(np.linalg.norm(rows[1, :, 3] - rows[other, :, 3]), abs=0.01)

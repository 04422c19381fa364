"""KITTI odometry (Geiger et al., CVPR 2012): long stereo sequences with poses.

<root>/sequences/<ss>/calib.txt image_2 image_3 (or, grey, image_0 image_1)
<root>/poses/<ss>.txt
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from depth_ros.types import InputError
from training.config import ConfigError, DataConfig
from training.data.files import image_size, report_missing
from training.data.kitti.calibration import camera_of, camera_T_reference, read_calibration, stereo_baseline_m
from training.data.kitti.frames import MISSING, NumberedImages, all_targets
from training.data.recording import Target, list_images, load_poses

COLOUR, GREY = (2, 3), (0, 1)  # KITTI's numbers of the left and the right cameras
SEQUENCES = re.compile(r"\d\d(-\d\d)?(,\d\d(-\d\d)?)*")


class OdometrySequence(NumberedImages):
    """The images of one camera of a sequence, or of both; poses are this (left) camera's own. Raises InputError."""

    def __init__(self, root: Path, sequence: str, cameras: tuple[int, ...]) -> None:
        folder = root / "sequences" / sequence
        calibration = read_calibration(folder / "calib.txt")
        P = [calibration.array(f"P{camera}", 3, 4) for camera in cameras]
        folders = [folder / f"image_{camera}" for camera in cameras]
        width, height = image_size(list_images(folders[0])[0])
        baseline = stereo_baseline_m(*P, calibration.path) if len(P) == 2 else None
        super().__init__(root, folders, camera_of(P[0], width, height), baseline)
        if not self.frames:
            raise InputError(f"{folder}: has no frame in {' and '.join(f.name for f in folders)}; expected <frame>.png in each")
        poses, count = root / "poses" / f"{sequence}.txt", self.frames[-1] + 1
        if poses.is_file():
            count = max(count, len(poses.read_text(encoding="utf-8").splitlines()))
            # The file says where camera 0 (left, grey) is; this camera sits beside it with the same orientation.
            self.world_T_camera = load_poses(poses, count)[self.frames] @ np.linalg.inv(camera_T_reference(P[0]))
        self.missing = [f"{self.name} {frame:06d}" for frame in sorted(set(range(count)) - set(self.frames))]


def open_kitti_odometry(config: DataConfig, part: str) -> list[Target]:
    """`source: kitti_odometry`: both cameras' images of the sequences that data.split names. Raises InputError or ConfigError.

    "00-08/09,10" trains on 00 to 08 and validates on 09 and 10; one sequence alone, "00", is split by data.train_frames and
    data.val_frames. The colour images are read, the grey ones where a sequence has no image_2.
    """
    if part == "test":
        raise ConfigError("data.source kitti_odometry has no true depth to judge by; judge on kitti_raw or kitti_stereo2015")
    root = Path(config.root) / config.path
    train, slash, val = config.split.partition("/")
    if not all(SEQUENCES.fullmatch(text) for text in (train, *([val] if slash else []))):
        raise ConfigError(f"data.split is '{config.split}'; expected sequences to train / validate on, for example 00-08/09,10")
    shared = sorted(set(_sequences(train)) & set(_sequences(val))) if slash else []
    if shared or (not slash and len(_sequences(train)) > 1):
        found = f"{shared[0]} on both sides" if shared else "several sequences and none to validate on"
        raise ConfigError(f"data.split '{config.split}' names {found}; expected two sides that differ, for example 00-08/09,10")
    names = _sequences(val if slash and part == "val" else train)
    recordings = [recording for name in names for recording in _open(root, name, config.stereo)]
    missing = [name for recording in recordings for name in recording.missing]
    report_missing(root, MISSING, missing, sum(map(len, recordings)) + len(missing))
    return all_targets(recordings, config, part, by_frames=not slash)


def _open(root: Path, sequence: str, stereo: bool) -> list[OdometrySequence]:
    """The pair of cameras; without stereo, each that is there by itself."""
    folder = root / "sequences" / sequence
    left, right = COLOUR if (folder / f"image_{COLOUR[0]}").is_dir() else GREY
    if stereo:
        return [OdometrySequence(root, sequence, (left, right))]
    cameras = [left, right] if (folder / f"image_{right}").is_dir() else [left]
    return [OdometrySequence(root, sequence, (camera,)) for camera in cameras]


def _sequences(text: str) -> list[str]:
    """The sequences of "00,02-04": 00, 02, 03 and 04."""
    bounds = [(item.split("-")[0], item.split("-")[-1]) for item in text.split(",")]
    return [f"{number:02d}" for first, last in bounds for number in range(int(first), int(last) + 1)]

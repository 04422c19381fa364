"""KITTI raw in its standard layout (Geiger et al., IJRR 2013), with lidar truth and the poses of its GPS and IMU.

<root>/<date>/calib_cam_to_cam.txt calib_velo_to_cam.txt calib_imu_to_velo.txt
<root>/<date>/<drive>/image_02/data image_03/data velodyne_points/data oxts/data
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np

from depth_ros.types import Float32Array, Float64Array, InputError
from training.config import ConfigError, DataConfig
from training.data.files import read_png16, report_missing
from training.data.kitti import velodyne
from training.data.kitti.calibration import (
    camera_of,
    camera_T_reference,
    read_calibration,
    rectification,
    rigid_transform,
    stereo_baseline_m,
)
from training.data.kitti.frames import MISSING, NumberedImages, all_targets
from training.data.kitti.oxts import load_oxts_poses
from training.data.kitti.splits import read_split, split_file
from training.data.recording import Target

LEFT, RIGHT = 2, 3  # KITTI's numbers of the colour cameras
IMPROVED_SCALE = 256.0  # PNG value of a metre
HELD_OUT = 10  # of so many drives, one is held out for validation and judging
# data.truth and the file that it needs
TRUTHS = {
    "velodyne_x": "<drive>/velodyne_points/data/<frame>.bin",
    "velodyne_z": "<drive>/velodyne_points/data/<frame>.bin",
    "improved": "proj_depth/groundtruth/image_02/<frame>.png in <date>/<drive>, train/<drive> or val/<drive>",
}


class Drive(NumberedImages):
    """The images of one camera of a drive, or of both. Raises InputError for a bad calibration."""

    def __init__(self, root: Path, drive: str, cameras: tuple[int, ...], truth: str = "") -> None:
        self.folder, self.cameras, self.truth = root / drive, cameras, truth
        self._calibration = read_calibration(self.folder.parent / "calib_cam_to_cam.txt")
        self._P = [self._calibration.array(f"P_rect_0{camera}", 3, 4) for camera in cameras]
        self._size = tuple(self._calibration.array(f"S_rect_0{cameras[0]}", 2).astype(int).tolist())
        folders = [self.folder / f"image_0{camera}" / "data" for camera in cameras]
        baseline = stereo_baseline_m(*self._P, self._calibration.path) if len(cameras) == 2 else None
        super().__init__(root, folders, camera_of(self._P[0], *self._size), baseline)

    def depth(self, index: int, right: bool = False) -> Float32Array | None:
        """See Recording; by the convention that data.truth names."""
        file = self._truth_file(index, right)
        if file is None:
            return None
        if self.truth == "improved":
            return read_png16(file, IMPROVED_SCALE)
        image_T_velodyne = self._P[right] @ self._rectified_T_velodyne
        return velodyne.depth_image(velodyne.load_points(file), image_T_velodyne, *self._size, forward=self.truth == "velodyne_x")

    def has_depth(self, index: int, right: bool = False) -> bool:
        """See Recording."""
        return self._truth_file(index, right) is not None

    @cached_property
    def world_T_camera(self) -> Float64Array | None:  # type: ignore[override]  # noqa: N802
        """See Recording; None without oxts/ or calib_imu_to_velo.txt. Read when first asked for: it is a file per frame."""
        calibration = self.folder.parent / "calib_imu_to_velo.txt"
        if not (self.folder / "oxts").is_dir() or not calibration.is_file():
            return None
        velodyne_T_imu = rigid_transform(read_calibration(calibration))
        camera_T_imu = camera_T_reference(self._P[0]) @ self._rectified_T_velodyne @ velodyne_T_imu
        return load_oxts_poses(self.folder / "oxts" / "data", self.frames) @ np.linalg.inv(camera_T_imu)

    @cached_property
    def _rectified_T_velodyne(self) -> Float64Array:  # noqa: N802
        calibration = read_calibration(self.folder.parent / "calib_velo_to_cam.txt")
        return rectification(self._calibration) @ rigid_transform(calibration)

    def _truth_file(self, index: int, right: bool) -> Path | None:
        """The file that data.truth names, of an image; None where it is missing, or no truth is asked for."""
        frame = f"{self.frames[index]:010d}"
        improved = Path("proj_depth", "groundtruth", f"image_0{self.cameras[right]}", f"{frame}.png")
        sweep = self.folder / "velodyne_points" / "data" / f"{frame}.bin"
        files = {
            "": (),
            "improved": [f / improved for f in (self.folder, *(self._root / p / self.folder.name for p in ("train", "val")))],
        }.get(self.truth, [sweep])
        return next((file for file in files if file.is_file()), None)


def open_kitti_raw(config: DataConfig, part: str) -> list[Target]:
    """`source: kitti_raw`: left and right images of a split, with per-day calibration. Raises InputError or ConfigError.

    data.split is a folder of split files (see training.data.kitti.splits) or "all": every frame, with every tenth drive held
    out as "val" and "test"; a single drive is split by data.train_frames and data.val_frames.
    """
    root, judged = Path(config.root) / config.path, part == "test" or config.depth
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; expected KITTI raw with its folders <date>/<drive>")
    if config.truth not in TRUTHS and (judged or config.truth):
        raise ConfigError(
            f"data.truth is '{config.truth}'; expected velodyne_x (lidar as in published Eigen numbers), "
            "velodyne_z (lidar along the camera's axis) or improved (accumulated lidar)"
        )
    targets = _every_frame(root, config, part) if config.split in ("", "all") else _listed(root, config, part)
    if judged and all(target.recording.depth(target.index, target.right) is None for target in targets):
        raise InputError(f"{root}: none of {len(targets)} images has its truth '{config.truth}'; expected {TRUTHS[config.truth]}")
    return targets


def _listed(root: Path, config: DataConfig, part: str) -> list[Target]:
    """The images of the split file; without stereo, either camera's are recordings of their own, so that each may be missing."""
    file = split_file(config, part)
    entries = read_split(file)
    drives: dict[tuple[str, tuple[int, ...]], Drive | None] = {}
    targets, missing = [], []
    for entry in entries:
        cameras = (LEFT, RIGHT) if config.stereo else (RIGHT,) if entry.right else (LEFT,)
        if (entry.drive, cameras) not in drives:
            there = (root / entry.drive).is_dir()
            drives[entry.drive, cameras] = Drive(root, entry.drive, cameras, config.truth) if there else None
        drive = drives[entry.drive, cameras]
        index = drive.index_of(entry.frame) if drive else None
        if drive is None or index is None:
            missing.append(str(entry))
        else:
            targets.append(Target(drive, index, entry.right and config.stereo))
    if not targets:
        raise InputError(f"{root}: holds none of the {len(entries)} images of {file}, the first {entries[0]}; expected KITTI raw")
    report_missing(file, MISSING, missing, len(entries))
    return targets


def _every_frame(root: Path, config: DataConfig, part: str) -> list[Target]:
    names = sorted(data.parents[1].relative_to(root).as_posix() for data in root.glob("*/*_drive_*/image_02/data"))
    if not names:
        raise InputError(f"{root}: holds no <date>/<drive>/image_02/data; expected KITTI raw in its own layout")
    held_out = names[HELD_OUT - 1 :: HELD_OUT] or names[-1:]
    by_frames = len(names) == 1
    chosen = [name for name in names if by_frames or (name in held_out) == (part != "train")]
    pair = config.stereo and part != "test"
    cameras = [(LEFT, RIGHT)] if pair else [(LEFT,)] if part == "test" else [(LEFT,), (RIGHT,)]
    drives = [Drive(root, name, numbers, config.truth) for name in chosen for numbers in cameras]
    missing = [f"{drive.name} {frame}" for drive in drives for frame in drive.unpaired]
    report_missing(root, MISSING, missing, sum(map(len, drives)) + len(missing))
    drives = [drive for drive in drives if len(drive)]
    if not drives:
        raise InputError(f"{root}: the drives hold no image; expected <frame>.png or .jpg, for stereo of both cameras")
    return all_targets(drives, config, part, by_frames)

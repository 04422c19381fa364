"""A robot's own recording: a ROS 2 bag, extracted once to a folder of rectified images that moved, with distances and poses."""

from __future__ import annotations

import csv
import hashlib
import json
import sys
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from depth_ros.calibration import load_calibration
from depth_ros.types import Float64Array, InputError
from training.config import ConfigError, DataConfig
from training.data.bags.extraction import Extraction, describe, least_size
from training.data.bags.reader import BagReader
from training.data.recording import Excerpt, Target
from training.data.video import ImageFolder

FORMAT = 2  # of an extracted folder; a change makes old ones void
VAL_GAP = 10  # images between training and validation, so that none looks nearly like one of the other part


class BagFolder(ImageFolder):
    """What extract() wrote: images, camera.yaml, images.csv, report.json, and poses.txt if the camera's poses are known."""

    def __init__(self, folder: Path) -> None:
        poses = folder / "poses.txt"
        super().__init__(folder / "image", load_calibration(folder / "camera.yaml"), poses=poses if poses.is_file() else None)
        self.report: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        self.name = self.report["bag"]
        with (folder / "images.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        self._pieces = [row["piece"] for row in rows]
        if self.report["odometry"]:
            self.travelled_m = np.array([float(row["travelled_m"]) for row in rows])

    def neighbour(self, index: int, offset: int) -> int | None:
        """See Recording; None across a gap."""
        found = super().neighbour(index, offset)
        return found if found is not None and self._pieces[found] == self._pieces[index] else None


def open_bag(config: DataConfig, part: str) -> list[Target]:
    """`source: bag`: data.bag, of which the last data.val_share of the images that are kept is for validation.

    Raises InputError or ConfigError; what is left out is said once, when the training part is opened.
    """
    if part == "test":
        raise InputError(f"{config.bag}: a bag holds no true depth to judge with; expected a folder with truth")
    recording = BagFolder(extract(config))
    if config.known_poses and any(config.offsets) and recording.world_T_camera is None:
        raise InputError(
            f"{config.bag}: data.known_poses is true, but the camera's poses are not known: {recording.report['no_poses']}; "
            "record what is missing, or learn the poses: --set data.known_poses=false"
        )
    if part == "train":
        _announce(recording, config.known_poses)
    count = len(recording)
    first = count - max(3, round(config.val_share * count))
    begin, end = (0, first - VAL_GAP) if part == "train" else (first, count)
    if first - VAL_GAP < 3:
        raise InputError(
            f"{config.bag}: data.val_share is {config.val_share}, which leaves nothing of {count} images to train on"
        )
    excerpt = Excerpt(recording, begin, end)
    return [Target(excerpt, index) for index in range(len(excerpt))]


def extract(config: DataConfig) -> Path:
    """Folder of the bag's images, from the cache if they are there. Raises InputError or ConfigError."""
    bag = Path(config.bag)
    if not config.bag:
        raise ConfigError("data.bag is empty; name a ROS 2 bag: --set data.bag=my.mcap")
    if not bag.exists():
        raise InputError(f"{bag}: no such file or folder; expected a ROS 2 bag (MCAP or sqlite3)")
    cache = Path(config.cache)
    folder = cache / f"{bag.stem}_{_fingerprint(bag, config)}"
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{folder.name}_", dir=cache) as scratch:
            draft = Path(scratch) / "draft"
            (draft / "image").mkdir(parents=True)
            Extraction(config, BagReader(bag, Path(scratch))).write(draft)
            if not folder.is_dir():  # another process of this run may have been faster
                draft.rename(folder)
    return folder


def _fingerprint(bag: Path, config: DataConfig) -> str:
    """Hash of everything that decides the extracted folder."""
    files = sorted(bag.rglob("*")) if bag.is_dir() else [bag]
    stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    calibration = Path(config.calibration).read_text(encoding="utf-8") if config.calibration else ""
    options = (config.topic, config.odometry, config.min_motion, config.max_gap_s, least_size(config), calibration)
    return hashlib.sha256(repr((FORMAT, stats, options)).encode()).hexdigest()[:12]


def _announce(recording: BagFolder, known_poses: bool) -> None:
    """Say what was extracted; warn of what is wrong with it."""
    report, poses, offer = recording.report, recording.world_T_camera, ""
    if poses is not None and not known_poses:
        better = "--set data.known_poses=true --set method.velocity=0 learns depth from them, which is better"
        offer = f"; the bag knows the camera's poses: {better}"
    print(f"{describe(report)}; {report['pieces']} unbroken piece(s){offer}", file=sys.stderr)
    for reason, first in report["faults"].items():
        count = report["skipped"][reason]
        warnings.warn(f"{report['bag']}: {count} image(s) left out: {reason}, the first {first}", stacklevel=2)
    for text in report["damage"]:
        warnings.warn(f"{report['bag']}: {text}; what could be read is used", stacklevel=2)
    if report["black_share"] > 0.02:
        warnings.warn(
            f"{report['bag']}: {report['black_share']:.0%} of the rectified image is black, which the lens did not see; "
            "a camera_info whose P crops it (alpha 0) trains better",
            stacklevel=2,
        )
    if poses is not None and (axis := _main_axis(poses)) != "z":
        warnings.warn(
            f"{report['bag']}: by its poses the camera moves mostly along its {axis} axis: right if it does not look where "
            "the robot goes; else the frame_id of its images names no optical frame (z forward, x right, y down)",
            stacklevel=2,
        )
    if not report["odometry"]:
        warnings.warn(
            f"{report['bag']}: without odometry nothing in this bag says how long a metre is: --set method.velocity=0 "
            "--set method.normalise_disparity=true trains depth up to one factor, with method.camera_height in metres",
            stacklevel=2,
        )


def _main_axis(world_T_camera: Float64Array) -> str:
    """Axis of the camera (x, y or z) along which it moves most from one image to the next."""
    steps = np.diff(world_T_camera[:, :3, 3], axis=0)
    seen = np.einsum("nij,ni->nj", world_T_camera[:-1, :3, :3], steps)  # camera_R_world applied to each
    return "xyz"[int(np.median(np.abs(seen), axis=0).argmax())]

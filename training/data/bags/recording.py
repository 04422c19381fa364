"""A robot's own recording: a ROS 2 bag, extracted once to a folder of rectified images that moved, with the distance driven."""

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
from depth_ros.types import InputError
from training.config import ConfigError, DataConfig
from training.data.bags.extraction import Extraction, describe, least_size
from training.data.bags.reader import BagReader
from training.data.recording import Excerpt, Target
from training.data.video import ImageFolder

FORMAT = 1  # of an extracted folder; a change makes old ones void
VAL_GAP = 10  # images between training and validation, so that none looks nearly like one of the other part


class BagFolder(ImageFolder):
    """What extract() wrote: images, camera.yaml, images.csv, report.json."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "image", load_calibration(folder / "camera.yaml"))
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
    if part == "train":
        _announce(recording.report)
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


def _announce(report: dict[str, Any]) -> None:
    """Say what was extracted; warn of what is wrong with it."""
    print(f"{describe(report)}; {report['pieces']} unbroken piece(s)", file=sys.stderr)
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
    if not report["odometry"]:
        warnings.warn(
            f"{report['bag']}: without odometry nothing in this bag says how long a metre is: --set method.velocity=0 "
            "--set method.normalise_disparity=true trains depth up to one factor, with method.camera_height in metres",
            stacklevel=2,
        )

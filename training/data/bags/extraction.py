"""One pass over a ROS 2 bag: the rectified images between which the picture moved, with distances and poses."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import groupby, pairwise
from math import ceil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from depth_ros import compressed
from depth_ros.calibration import camera_from_matrices, load_calibration, save_calibration
from depth_ros.images import Rectifier, decode, resize_image
from depth_ros.types import CameraModel, Float64Array, InputError, UInt8Array
from training.config import DataConfig
from training.data.bags.frames import StaticFrames, only, plain
from training.data.bags.odometry import Clock, Odometry, choose_odometry
from training.data.bags.reader import BagReader, Stamped
from training.data.bags.selection import Choice, MotionFilter

IMAGE, COMPRESSED, INFO = (f"sensor_msgs/msg/{name}" for name in ("Image", "CompressedImage", "CameraInfo"))
MARGIN = 1.25  # images are stored this much larger than the network's input (or more, for zoomed crops)
JPEG = [cv2.IMWRITE_JPEG_QUALITY, 95]
LEAST_IMAGES = 20
STANDING_M = 0.01  # less between two images is none: the picture moved because of traffic, or the robot turned on the spot


@dataclass(frozen=True)
class Kept:
    """An image that was extracted."""

    name: str
    epoch: int  # see Clock
    time_s: float
    piece: int  # images of different pieces are no neighbours
    travelled_m: float = float("nan")


class Extraction:
    """One pass over a bag. Raises InputError where topics or camera are not clear."""

    def __init__(self, config: DataConfig, reader: BagReader) -> None:
        self.config, self.reader = config, reader
        self.topic = _choose_images(reader, config.topic)
        name = choose_odometry(reader, config.odometry)
        self.odometry = Odometry(name, config.max_gap_s) if name else None
        self.statics, self.frames = StaticFrames(reader), set[str]()  # frames: frame_id of the images
        camera, self.rectified_T_raw = _camera(reader, self.topic, config.calibration)
        self.rectifier = Rectifier(camera)
        full, (width, height) = self.rectifier.camera, least_size(config)
        scale = min(1.0, max(width / full.width, height / full.height))
        self.camera = full.resized(round(scale * full.width), round(scale * full.height))
        self.skipped: Counter[str] = Counter()
        self.faults: dict[str, str] = {}  # the first image of each kind of fault

    def write(self, folder: Path) -> None:
        """Fill the folder. Raises InputError where too little is left."""
        written = list(self._written(folder / "image"))
        images = self._measured(written)
        for unused in {k.name for k in written} - {k.name for k in images}:
            (folder / "image" / unused).unlink()
        poses, no_poses = self._poses(images)
        report = self._report(images) | {"no_poses": no_poses}
        if len(images) < LEAST_IMAGES:
            fault = f"; the first fault: {next(iter(self.faults.values()))}" if self.faults else ""
            raise InputError(
                f"{describe(report)}{fault}; expected at least {LEAST_IMAGES} images of a camera that moves: "
                "record a longer drive, or lower data.min_motion"
            )
        save_calibration(self.camera, folder / "camera.yaml")
        if not no_poses:
            np.savetxt(folder / "poses.txt", poses[:, :3].reshape(-1, 12))
        with (folder / "images.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, list(asdict(images[0])))
            table.writeheader()
            table.writerows(asdict(image) for image in images)
        (folder / "report.json").write_text(json.dumps(report, indent=2), encoding="utf-8")

    def _written(self, folder: Path) -> Iterator[Kept]:
        """Write the images between which the picture moved; collect odometry and static transforms."""
        select, clock = MotionFilter(self.config.min_motion, self.config.max_gap_s), Clock(self.config.max_gap_s)
        topics = (self.topic, *self.statics.topics, *([self.odometry.topic] if self.odometry else []))
        total = sum(self.reader.counts[t] for t in topics)
        for message in tqdm(self.reader.messages(*topics), desc=self.reader.path.name, total=total, leave=False, disable=None):
            if self.odometry and message.topic == self.odometry.topic:
                self.odometry.add(message)
                continue
            if message.topic in self.statics.topics:
                self.statics.add(message)
                continue
            epoch = clock.epoch
            if not clock.admits(message.time_s):
                self._skip("late or repeated", f"at {message.time_s:.3f} s, after one at {clock.last_s:.3f} s")
                continue
            try:
                image = resize_image(self.rectifier(_pixels(message.content)), self.camera.width, self.camera.height)
            except InputError as error:
                self._skip("unreadable", f"at {message.time_s:.3f} s: {error}")
                continue
            choice = select(image, message.time_s, broken=clock.epoch != epoch)
            if choice is not Choice.KEEP:
                self._skip(choice.value)
                continue
            name = f"{clock.epoch:03d}_{round(1e9 * message.time_s):020d}.jpg"  # in the order of time
            cv2.imwrite(str(folder / name), image[..., ::-1], JPEG)
            self.frames.add(plain(message.content.header.frame_id))
            yield Kept(name, clock.epoch, message.time_s, select.piece)

    def _measured(self, images: list[Kept]) -> list[Kept]:
        """Those with a known distance, which grows; all where there is no odometry."""
        if self.odometry is None or not images:
            return images
        travelled = self.odometry.travelled([k.epoch for k in images], [k.time_s for k in images])
        result: list[Kept] = []
        lost, was_known = 0, True
        for image, metres in zip(images, travelled, strict=True):
            known = bool(np.isfinite(metres))
            lost += was_known and not known
            was_known = known
            image = replace(image, piece=image.piece + lost, travelled_m=float(metres))
            if not known:
                self._skip("without odometry", f"at {image.time_s:.3f} s: {self.odometry.topic} has nothing around that time")
            elif result and 0 <= _step(result[-1], image) < STANDING_M:
                self._skip("standing by odometry")
            else:
                result.append(image)
        return result

    def _poses(self, images: list[Kept]) -> tuple[Float64Array, str]:
        """world_T_camera (N, 4, 4) [m] of rectified images, or none and the reason."""
        try:
            if self.odometry is None:
                raise InputError("no odometry is read from the bag; expected nav_msgs/Odometry")
            world_T_base = self.odometry.poses([k.epoch for k in images], [k.time_s for k in images])
            base = only(self.odometry.frames, f"child_frame_id of {self.odometry.topic}")
            base_T_raw = self.statics.transform(base, only(self.frames, f"frame_id of {self.topic}"))
            base_T_raw[:3, :3] @= self.rectified_T_raw.T
            return world_T_base @ base_T_raw, ""
        except InputError as error:
            return np.empty((0, 4, 4)), str(error)

    def _skip(self, reason: str, fault: str = "") -> None:
        self.skipped[reason] += 1
        if fault:
            self.faults.setdefault(reason, fault)

    def _report(self, images: list[Kept]) -> dict[str, Any]:
        self.skipped["undecodable messages"] += self.reader.unreadable[self.topic]
        unseen = self.rectifier.unseen
        return {
            "bag": str(self.reader.path),
            "topic": self.topic,
            "odometry": self.odometry.topic if self.odometry else "",
            "images": len(images) + sum(self.skipped.values()),
            "kept": len(images),
            "pieces": len({k.piece for k in images}),
            "travelled_m": round(sum(max(0.0, _step(a, b)) for a, b in pairwise(images)), 2) if self.odometry else None,
            "skipped": dict(+self.skipped),
            "faults": self.faults,
            "odometry_skipped": self.odometry.skipped if self.odometry else 0,
            "damage": self.reader.damage,
            "black_share": 0.0 if unseen is None else round(float(unseen.mean()), 3),
        }


def describe(report: dict[str, Any]) -> str:
    """What was kept and what was not, in one line."""
    skipped = ", ".join(f"{count} {reason}" for reason, count in report["skipped"].items()) or "none skipped"
    driven = f"; {report['travelled_m']} m by {report['odometry']}" if report["odometry"] else ""
    return f"{report['bag']}: {report['kept']} of {report['images']} images of {report['topic']} kept ({skipped}){driven}"


def least_size(config: DataConfig) -> tuple[int, int]:
    """Width and height that images are stored at, or a little more; smaller ones as they are."""
    larger = max(MARGIN, config.max_zoom)
    return ceil(larger * config.width), ceil(larger * config.height)


def _step(before: Kept, after: Kept) -> float:
    """Distance [m] between two images of one piece, negative across pieces."""
    return after.travelled_m - before.travelled_m if before.piece == after.piece else -1.0


def _choose_images(reader: BagReader, wanted: str) -> str:
    found = sorted(t for t, kind in reader.types.items() if kind in (IMAGE, COMPRESSED) and not t.endswith("compressedDepth"))
    if wanted in found:
        return wanted
    if wanted or not found:
        have = ", ".join(found) or f"none among {', '.join(sorted(reader.types)) or 'no messages at all'}"
        raise InputError(f"{reader.path}: no image topic {wanted or 'at all'} in this bag; found: {have}")
    cameras = groupby(found, key=lambda topic: topic.removesuffix("/compressed"))  # sorted: the raw images first
    choices = [next(topics) for _, topics in cameras]
    if len(choices) > 1:
        raise InputError(f"{reader.path}: several image topics ({', '.join(choices)}); choose one with data.topic")
    return choices[0]


def _camera(reader: BagReader, topic: str, calibration: str) -> tuple[CameraModel, Float64Array]:
    """Camera by the calibration file, else by the camera_info beside the topic, and rectified_T_raw (3, 3). Raises InputError."""
    if calibration:
        camera = load_calibration(calibration)
        return camera, np.reshape(camera.distortion.rotation, (3, 3)) if camera.distortion else np.eye(3)
    base = topic.removesuffix("/compressed")
    name = base.rpartition("/")[0] + "/camera_info"
    message: Stamped | None = next(reader.messages(name), None) if reader.types.get(name) == INFO else None
    if message is None:
        others = ", ".join(sorted(t for t, kind in reader.types.items() if kind == INFO)) or "none"
        raise InputError(
            f"{reader.path}: no {name} for {topic} (camera_info found: {others}); "
            "record it, or give the camera's ROS calibration YAML: --set data.calibration=camera.yaml"
        )
    info = message.content
    if max(info.binning_x, info.binning_y) > 1 or info.roi.width or info.roi.height:
        raise InputError(
            f"{reader.path}: {name} states binning or a region of interest; give data.calibration of these very images"
        )
    K, D, R, P = (np.asarray(getattr(info, key), np.float64) for key in ("k", "d", "r", "p"))
    try:
        turn = R.reshape(3, 3) if np.any(R) else np.eye(3)
        if "rect" in base.rpartition("/")[2] and np.any(P):  # image_rect: the lens is undone already
            return CameraModel(info.width, info.height, P[0], P[5], P[2], P[6]), turn
        return camera_from_matrices(info.width, info.height, K, info.distortion_model, D, R, P), turn
    except InputError as error:
        raise InputError(f"{reader.path}: {name}: {error}") from None


def _pixels(message: Any) -> UInt8Array:
    """RGB of an Image or CompressedImage. Raises InputError."""
    data = np.asarray(message.data, np.uint8)
    if hasattr(message, "encoding"):
        return decode(message.encoding, message.width, message.height, message.step, data, bool(message.is_bigendian))
    return compressed.decode(message.format, data)

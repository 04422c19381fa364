"""Messages of range sensors -> points, distances and depth images in metres. All raise InputError on what they cannot read."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import Image, LaserScan, PointCloud2, PointField, Range

from depth_ros.scale.projection import scan_points
from depth_ros.types import Float64Array, InputError

FLOATS = {PointField.FLOAT32: "f4", PointField.FLOAT64: "f8"}
DEPTH_ENCODINGS = {"32FC1": ("f4", 1.0), "16UC1": ("u2", 1e-3)}  # -> type, metres of one unit (REP 118)


def points_of_scan(message: LaserScan) -> Float64Array:
    """Return the points (n, 3) [m] of a scan in its frame."""
    ranges = np.asarray(message.ranges, np.float64)
    if not math.isfinite(message.angle_min + message.angle_increment):
        raise InputError(f"scan has angle_min {message.angle_min}, angle_increment {message.angle_increment}; expected numbers")
    return scan_points(ranges, message.angle_min, message.angle_increment, message.range_min, message.range_max)


def points_of_cloud(message: PointCloud2) -> NDArray[np.floating]:
    """Return x, y, z (n, 3) [m] of a cloud, organised or not; NaN where it has NaN."""
    offsets = {item.name: item for item in message.fields}
    missing = [name for name in "xyz" if name not in offsets or offsets[name].datatype not in FLOATS]
    if missing:
        raise InputError(f"cloud has no float field {', '.join(missing)} (fields: {', '.join(offsets) or 'none'})")
    order = ">" if message.is_bigendian else "<"
    layout = np.dtype(
        {
            "names": list("xyz"),
            "formats": [order + FLOATS[offsets[name].datatype] for name in "xyz"],
            "offsets": [offsets[name].offset for name in "xyz"],
            "itemsize": message.point_step,
        }
    ) if _fits(message, [offsets[name] for name in "xyz"]) else None  # fmt: skip
    data = np.frombuffer(message.data, np.uint8)
    if layout is None or data.size < message.height * message.row_step:
        raise InputError(
            f"cloud of {message.width}x{message.height} points says point_step {message.point_step}, row_step {message.row_step} "
            f"and holds {data.size} bytes: these contradict each other"
        )
    rows = data[: message.height * message.row_step].reshape(message.height, message.row_step)
    packed = np.ascontiguousarray(rows[:, : message.width * message.point_step]).view(layout)
    return np.stack([packed[name].ravel() for name in "xyz"], axis=1).astype(np.float64)


def _fits(message: PointCloud2, wanted: list[Any]) -> bool:
    widest = max(item.offset + int(FLOATS[item.datatype][1]) for item in wanted)
    return bool(widest <= message.point_step and message.width * message.point_step <= message.row_step)


def distance_of_range(message: Range) -> float | None:
    """Return the distance [m] that a sonar or infrared sensor measured; None where nothing is in range (REP 117)."""
    if not (math.isfinite(message.field_of_view) and 0 < message.field_of_view < math.pi):
        raise InputError(f"range has field_of_view {message.field_of_view}; expected an angle [rad] between 0 and pi")
    measured = math.isfinite(message.range) and message.min_range <= message.range <= message.max_range and message.range > 0
    return float(message.range) if measured else None


def metres_of_image(message: Image) -> NDArray[np.floating]:
    """Return a depth image (H, W) in metres; 0 or not finite where nothing was measured."""
    if message.encoding not in DEPTH_ENCODINGS:
        raise InputError(f"depth image has encoding '{message.encoding}'; expected {' or '.join(DEPTH_ENCODINGS)}")
    kind, metres = DEPTH_ENCODINGS[message.encoding]
    item = np.dtype((">" if message.is_bigendian else "<") + kind)
    data, width = np.frombuffer(message.data, np.uint8), message.width * item.itemsize
    if message.step < width or data.size < message.height * message.step or not data.size:
        raise InputError(
            f"depth image of {message.width}x{message.height} {message.encoding} says step {message.step}, "
            f"but holds {data.size} bytes"
        )
    rows = data[: message.height * message.step].reshape(message.height, message.step)[:, :width]
    return np.ascontiguousarray(rows).view(item).astype(np.float32) * np.float32(metres)


KINDS = {"range/scan": LaserScan, "range/range": Range, "range/points": PointCloud2, "range/depth": Image}

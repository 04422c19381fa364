"""Read back what the recorder wrote: one answered image after the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_typestore

from depth_ros import images
from depth_ros.cloud import POINT_DTYPE
from depth_ros.types import CameraModel, Float32Array, InputError, UInt8Array

IMAGE, DEPTH, SIGMA, CAMERA, CLOUD = "/image", "/depth/image_rect", "/depth/uncertainty", "/depth/camera_info", "/points"
TOPICS = (IMAGE, DEPTH, SIGMA, CAMERA, CLOUD)


@dataclass(frozen=True)
class Answer:
    """One image and everything the node published for it."""

    stamp_ns: int
    receipt_ns: int  # when the recorder received the depth image
    image: UInt8Array  # (H, W, 3) RGB, as the camera sent it
    depth: Float32Array  # (H, W) [m]
    sigma: Float32Array  # (H, W) [m]
    cloud: NDArray[Any]  # (rows, cols) POINT_DTYPE, in the camera's optical frame
    camera: CameraModel  # of the depth image

    @property
    def latency_ms(self) -> float:
        """Milliseconds from the image's stamp to the receipt of its depth."""
        return (self.receipt_ns - self.stamp_ns) / 1e6


def answers(path: Path) -> Iterator[Answer]:
    """Yield every completely answered image of the recording in `path`, in the order of completion.

    Raises InputError if the file lacks one of TOPICS.
    """
    typestore = get_typestore(Stores.ROS2_JAZZY)
    pending: dict[int, dict[str, Any]] = {}
    with Reader(path) as reader:
        connections = [c for c in reader.connections if c.topic in TOPICS]
        if missing := set(TOPICS) - {c.topic for c in connections}:
            raise InputError(
                f"{path}: no topic {', '.join(sorted(missing))}; expected a recording made by depth_ros.tools.record"
            )
        for connection, receipt_ns, data in reader.messages(connections):
            message = typestore.deserialize_cdr(data, connection.msgtype)
            stamp_ns = message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec
            parts = pending.setdefault(stamp_ns, {})
            parts[connection.topic] = message
            if connection.topic == DEPTH:
                parts["receipt_ns"] = receipt_ns
            if len(parts) == len(TOPICS) + 1:
                yield _answer(stamp_ns, parts)
                pending = {stamp: parts for stamp, parts in pending.items() if stamp > stamp_ns}


def _answer(stamp_ns: int, parts: dict[str, Any]) -> Answer:
    image, info = parts[IMAGE], parts[CAMERA]
    return Answer(
        stamp_ns=stamp_ns,
        receipt_ns=parts["receipt_ns"],
        image=images.decode(image.encoding, image.width, image.height, image.step, image.data, bool(image.is_bigendian)),
        depth=_floats(parts[DEPTH]),
        sigma=_floats(parts[SIGMA]),
        cloud=_points(parts[CLOUD]),
        camera=CameraModel(info.width, info.height, info.p[0], info.p[5], info.p[2], info.p[6]),
    )


def _floats(message: Any) -> Float32Array:
    if message.encoding != "32FC1":
        raise InputError(f"{message.header.frame_id}: depth encoding is {message.encoding}; expected 32FC1")
    return np.asarray(message.data).view(np.float32).reshape(message.height, message.width)


def _points(message: Any) -> NDArray[Any]:
    if message.point_step != POINT_DTYPE.itemsize:
        raise InputError(f"points: point_step is {message.point_step}; expected {POINT_DTYPE.itemsize} (x y z rgb sigma)")
    points: NDArray[Any] = np.asarray(message.data).view(POINT_DTYPE).reshape(message.height, message.width)
    return points

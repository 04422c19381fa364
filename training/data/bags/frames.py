"""Fixed frames of a robot, by the static transforms in its bag. Names as in tf2: target_T_source maps points of the source."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from depth_ros.types import BoolArray, Float64Array, InputError
from training.data.bags.reader import BagReader, Stamped

TRANSFORMS = "tf2_msgs/msg/TFMessage"
UNIT = 1e-2  # by which the length of a quaternion may differ from 1, as in tf2


class StaticFrames:
    """Tree of the frames that never move against each other; of a frame that comes twice, the last transform counts."""

    def __init__(self, reader: BagReader) -> None:
        self.topics = sorted(t for t, kind in reader.types.items() if kind == TRANSFORMS and t.endswith("tf_static"))
        self._parents: dict[str, tuple[str, Any]] = {}  # of a frame: its parent's name, geometry_msgs/Transform

    def add(self, message: Stamped) -> None:
        """Take the transforms of a message."""
        for stamped in message.content.transforms:
            self._parents[plain(stamped.child_frame_id)] = plain(stamped.header.frame_id), stamped.transform

    def transform(self, target: str, source: str) -> Float64Array:
        """target_T_source (4, 4) [m]. Raises InputError where no transforms connect the two, and says which frames are known."""
        (top, top_T_target), (other, other_T_source) = self._to_top(target), self._to_top(source)
        if top != other:
            names = sorted({*self._parents, *(parent for parent, _ in self._parents.values())})
            known = f"{', '.join(self.topics)} knows {', '.join(names)}" if names else "the bag holds no /tf_static"
            raise InputError(f"no static transforms connect {target} with {source} ({known})")
        return np.linalg.inv(top_T_target) @ other_T_source

    def _to_top(self, frame: str) -> tuple[str, Float64Array]:
        """Name of the frame's topmost ancestor, and its top_T_frame (4, 4)."""
        top, top_T_frame, passed = frame, np.eye(4), {frame}
        while top in self._parents:
            parent, transform = self._parents[top]
            if parent in passed:
                raise InputError(f"the static transforms of {frame} run in a circle, through {parent}")
            top_T_frame, top = _matrix(transform, f"the static transform from {parent} to {top}") @ top_T_frame, parent
            passed.add(top)
        return top, top_T_frame


def plain(frame: str) -> str:
    """Name of a frame as tf2 has it: without the slash of old drivers."""
    return frame.lstrip("/")


def only(frames: set[str], name: str) -> str:
    """The one frame that all messages of this name are in. Raises InputError."""
    if len(frames) != 1 or "" in frames:
        raise InputError(f"{name} is {' and '.join(sorted(map(repr, frames))) or 'missing'}; expected one name")
    return next(iter(frames))


def poses_from(positions: Float64Array, rotations: Rotation) -> Float64Array:
    """Poses (N, 4, 4) of N positions (N, 3) and rotations."""
    poses = np.tile(np.eye(4), (len(positions), 1, 1))
    poses[:, :3, :3], poses[:, :3, 3] = rotations.as_matrix(), positions
    return poses


def is_unit(quaternions: Float64Array) -> BoolArray:
    """Which of the quaternions (N, 4) are rotations: (N,). Drivers that know none leave zeros or NaN."""
    unit: BoolArray = np.abs(np.linalg.norm(quaternions, axis=1) - 1) < UNIT
    return unit


def _matrix(transform: Any, name: str) -> Float64Array:
    position, rotation = transform.translation, transform.rotation
    quaternion = np.array([[rotation.x, rotation.y, rotation.z, rotation.w]])
    place = np.array([[position.x, position.y, position.z]])
    if not is_unit(quaternion)[0] or not np.isfinite(place).all():
        raise InputError(f"{name} is {place[0].tolist()}, {quaternion[0].tolist()}; expected metres and a unit quaternion")
    return poses_from(place, Rotation.from_quat(quaternion))[0]

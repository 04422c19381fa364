"""Poses as (4, 4) matrices: of a sensor or a robot beside a camera, and of a robot over time."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence

import numpy as np

from depth_ros.types import Float64Array, InputError

# A camera's body frame has x forward, y left, z up (REP 103); its optical frame z forward, x right, y down.
OPTICAL_T_BODY: Float64Array = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
KEPT_POSES = 400  # eight seconds at 50 Hz
GAP_S = 0.5  # between two poses beyond which nothing is known of the time in between
BACK_S = 1.0  # older than the newest by less than that, a pose was overtaken on its way
AHEAD_S = 0.1  # beyond the newest pose that motion is taken to go on


def pose_from_text(text: str) -> Float64Array:
    """Return body_T_sensor (4, 4) of "x y z roll pitch yaw" [m, rad], fixed axes as in URDF. Raises InputError."""
    try:
        values = [float(part) for part in text.replace(",", " ").split()]
    except ValueError:
        values = []
    if len(values) != 6 or not np.isfinite(values).all():
        raise InputError(f"scale.sensor_pose is '{text}'; expected six numbers: x y z [m] roll pitch yaw [rad]")
    roll, pitch, yaw = values[3:]
    (cr, cp, cy), (sr, sp, sy) = np.cos([roll, pitch, yaw]), np.sin([roll, pitch, yaw])
    about_x = np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    about_y = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
    about_z = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = about_z @ about_y @ about_x, values[:3]
    return pose


def pose_from_quaternion(position: Sequence[float], quaternion: Sequence[float]) -> Float64Array:
    """Return the (4, 4) of a position [m] and a quaternion x y z w, normalised here. Raises InputError if it is none."""
    length = float(np.linalg.norm(quaternion))
    if not (length > 1e-6 and np.isfinite(length) and np.isfinite(position).all()):
        raise InputError(f"pose {list(position)} {list(quaternion)} is none: expected finite metres and a quaternion x y z w")
    x, y, z, w = (part / length for part in quaternion)
    pose = np.eye(4)
    pose[:3, 3] = position
    pose[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return pose


class PoseHistory:
    """Poses of a robot by stamp, interpolated."""

    def __init__(self) -> None:
        self._stamps: deque[int] = deque(maxlen=KEPT_POSES)
        self._values: deque[Float64Array] = deque(maxlen=KEPT_POSES)  # position and quaternion x y z w (7,)

    def add(self, stamp_ns: int, position: Sequence[float], quaternion: Sequence[float]) -> None:
        """Take a pose in, newer than those before; much older, the clock was set back and a new history begins.

        Raises InputError if it is no pose.
        """
        pose_from_quaternion(position, quaternion)
        if self._stamps and stamp_ns <= self._stamps[-1]:
            if stamp_ns > self._stamps[-1] - BACK_S * 1e9:
                return
            self._stamps.clear()
            self._values.clear()
        value = np.array([*position, *quaternion], np.float64)
        if self._values and value[3:] @ self._values[-1][3:] < 0:
            value[3:] *= -1  # the same rotation, on the near side for interpolation
        self._stamps.append(stamp_ns)
        self._values.append(value)

    def newest_ns(self) -> int | None:
        """Return the stamp of the newest pose."""
        return self._stamps[-1] if self._stamps else None

    def at(self, stamp_ns: int) -> Float64Array | None:
        """Return the pose (4, 4) at a stamp, None where the history does not reach or has a gap."""
        if len(self._stamps) < 2 or not self._stamps[0] <= stamp_ns <= self._stamps[-1] + AHEAD_S * 1e9:
            return None
        after = min(max(bisect_left(self._stamps, stamp_ns), 1), len(self._stamps) - 1)
        begin, end = self._stamps[after - 1], self._stamps[after]
        if end - begin > GAP_S * 1e9:
            return None
        share = (stamp_ns - begin) / (end - begin)
        value = self._values[after - 1] * (1 - share) + self._values[after] * share
        return pose_from_quaternion(value[:3].tolist(), value[3:].tolist())


class StaticTree:
    """Frames that are fixed to each other, as /tf_static tells them."""

    def __init__(self) -> None:
        self._parents: dict[str, tuple[str, Float64Array]] = {}  # child -> parent, parent_T_child

    def add(self, parent: str, child: str, parent_T_child: Float64Array) -> None:
        """Take an edge in; the last one of a child counts."""
        self._parents[child] = (parent, parent_T_child)

    def between(self, target: str, source: str) -> Float64Array | None:
        """Return target_T_source (4, 4), None where the two hang together by nothing."""
        (target_root, root_T_target), (source_root, root_T_source) = self._root(target), self._root(source)
        return np.linalg.inv(root_T_target) @ root_T_source if target_root == source_root else None

    def _root(self, frame: str) -> tuple[str, Float64Array]:
        pose, seen = np.eye(4), {frame}
        while frame in self._parents:
            frame, parent_T_child = self._parents[frame]
            if frame in seen:
                raise InputError(f"/tf_static has a loop through frame '{frame}'; expected a tree")
            seen.add(frame)
            pose = parent_T_child @ pose
        return frame, pose

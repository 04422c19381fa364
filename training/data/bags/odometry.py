"""How far the robot went between two images, and where it was, by the odometry in its bag."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

from depth_ros.types import Float64Array, InputError
from training.data.bags.frames import is_unit, plain, poses_from
from training.data.bags.reader import BagReader, Stamped

ODOMETRY, TWIST, TWIST_COVARIANCE = (
    "nav_msgs/msg/Odometry",
    "geometry_msgs/msg/TwistStamped",
    "geometry_msgs/msg/TwistWithCovarianceStamped",
)
NONE = "none"  # value of data.odometry
STANDING_M = 1e-3  # a robot that went no further has no positions to speak of


class Clock:
    """Tells a late or repeated message from a clock that was set back by more than `max_gap_s`, which begins an epoch."""

    def __init__(self, max_gap_s: float) -> None:
        self.max_gap_s, self.epoch = max_gap_s, 0
        self.last_s = -np.inf

    def admits(self, time_s: float) -> bool:
        """Whether the message comes after the one before; the next ones are compared with it then."""
        if time_s <= self.last_s:
            if self.last_s - time_s <= self.max_gap_s:
                return False
            self.epoch += 1
        self.last_s = time_s
        return True


class Odometry:
    """Collects the messages of one topic, and says how far the robot went along its path, and which pose it had.

    Positions count where there are any, as they do not depend on how often they come; else speed is integrated over time.
    `frames` are the names of what the poses are of (child_frame_id).
    """

    def __init__(self, topic: str, max_gap_s: float) -> None:
        self.topic, self.skipped = topic, 0
        self.frames: set[str] = set()
        self._clock = Clock(max_gap_s)
        self._rows: list[tuple[float, ...]] = []  # epoch, time [s], position [m] (3), speed [m/s]
        self._turns: list[tuple[float, ...]] = []  # of each row: its orientation as a quaternion xyzw, of twists none

    def add(self, message: Stamped) -> None:
        """Take a message; one that is late or not finite is counted in `skipped`."""
        twist = message.content.twist
        linear = getattr(twist, "twist", twist).linear
        pose = getattr(message.content, "pose", None)
        position = (pose.pose.position.x, pose.pose.position.y, pose.pose.position.z) if pose else (0.0, 0.0, 0.0)
        values = (*position, float(np.linalg.norm((linear.x, linear.y, linear.z))))
        if not np.isfinite(values).all() or not self._clock.admits(message.time_s):
            self.skipped += 1
            return
        self._rows.append((self._clock.epoch, message.time_s, *values))
        if pose:
            turn = pose.pose.orientation
            self._turns.append((turn.x, turn.y, turn.z, turn.w))
            self.frames.add(plain(message.content.child_frame_id))

    def travelled(self, epochs: Sequence[int], times_s: Sequence[float]) -> Float64Array:
        """Distance [m] along the path at each of N ascending times, from the first on: (N,), NaN where nothing was measured.

        Between two images it is the straight line. Raises InputError if the robot never moved by this topic.
        """
        rows, moves = np.array(self._rows).reshape(-1, 6), self._moves()
        if not moves and not (rows[:, 5] * self._clock.max_gap_s > STANDING_M).any():
            raise InputError(
                f"{self.topic}: says that the robot never moves in {len(rows)} messages; expected its motion: choose another "
                f"topic with data.odometry, or data.odometry={NONE}"
            )
        places = np.full((len(times_s), 3), np.nan)
        for epoch in set(epochs):
            mine, track = np.equal(epochs, epoch), rows[rows[:, 0] == epoch]
            path = track[:, 2:5] if moves else _integrate(track[:, 1], track[:, 5])
            places[mine] = _interpolate(np.asarray(times_s)[mine], track[:, 1], path, self._clock.max_gap_s)
        known = np.isfinite(places).all(axis=1)
        steps = np.linalg.norm(np.diff(places[known], axis=0), axis=1)
        result = np.full(len(times_s), np.nan)
        result[known] = np.concatenate([[0.0], np.cumsum(steps)])[: known.sum()]
        return result

    def poses(self, epochs: Sequence[int], times_s: Sequence[float]) -> Float64Array:
        """world_T_base (N, 4, 4) [m] at each of N times: positions linearly, rotations by slerp (Shoemake, SIGGRAPH 1985).

        NaN where travelled() is. Raises InputError if the messages hold no poses.
        """
        rows, turns = np.array(self._rows).reshape(-1, 6), np.array(self._turns).reshape(-1, 4)
        if not self._moves() or not len(turns):
            raise InputError(f"{self.topic} states no positions; expected nav_msgs/Odometry with poses")
        if not is_unit(turns).all():
            count = int((~is_unit(turns)).sum())
            raise InputError(f"{self.topic}: {count} of {len(turns)} orientations are no unit quaternions")
        if not np.ptp(turns, axis=0).any():
            raise InputError(f"{self.topic}: its orientation never changes in {len(turns)} messages, as if it were not measured")
        result = np.full((len(times_s), 4, 4), np.nan)
        for epoch in set(epochs):
            mine, of_epoch = np.flatnonzero(np.equal(epochs, epoch)), rows[:, 0] == epoch
            track, wanted = rows[of_epoch], np.asarray(times_s)[mine]
            places = _interpolate(wanted, track[:, 1], track[:, 2:5], self._clock.max_gap_s)
            known = np.isfinite(places).all(axis=1)
            if known.any():
                turn = Slerp(track[:, 1], Rotation.from_quat(turns[of_epoch]))
                result[mine[known]] = poses_from(places[known], turn(wanted[known]))
        return result

    def _moves(self) -> bool:
        """Whether positions are stated."""
        positions = np.array(self._rows).reshape(-1, 6)[:, 2:5]
        return len(positions) > 0 and bool(np.ptp(positions, axis=0).max() > STANDING_M)


def choose_odometry(reader: BagReader, wanted: str) -> str:
    """Topic of the bag's odometry, "" where it has none or none is wanted. Raises InputError where the choice is not clear.

    A stamped twist named cmd_... is what the robot was told, not what it did.
    """
    found = sorted(t for t, kind in reader.types.items() if kind in (ODOMETRY, TWIST, TWIST_COVARIANCE))
    if wanted in found:
        return wanted
    if wanted not in ("", NONE):
        raise InputError(f"{reader.path}: no odometry topic {wanted}; found: {', '.join(found) or 'none'}")
    measured = [t for t in found if "cmd" not in t]
    if wanted == NONE or not measured:
        return ""
    odometry = [t for t in measured if reader.types[t] == ODOMETRY] or measured
    if len(odometry) > 1:
        raise InputError(f"{reader.path}: several odometry topics ({', '.join(odometry)}); choose one with data.odometry")
    return odometry[0]


def _integrate(times_s: Float64Array, speeds: Float64Array) -> Float64Array:
    """Distance (N, 3) along one axis, by the trapezoidal rule."""
    steps = np.diff(times_s) * (speeds[1:] + speeds[:-1]) / 2
    path = np.zeros((len(times_s), 3))
    path[1:, 0] = np.cumsum(steps)
    return path


def _interpolate(wanted: Float64Array, times_s: Float64Array, path: Float64Array, max_gap_s: float) -> Float64Array:
    """Places (N, 3) on the path at the wanted times, NaN outside of it and within its gaps."""
    places = np.full((len(wanted), 3), np.nan)
    if len(times_s) < 2:
        return places
    after = np.searchsorted(times_s, wanted).clip(1, len(times_s) - 1)
    known = (wanted >= times_s[0]) & (wanted <= times_s[-1]) & (times_s[after] - times_s[after - 1] <= max_gap_s)
    known |= wanted == times_s[after]  # where a gap ends
    for axis in range(3):
        places[known, axis] = np.interp(wanted[known], times_s, path[:, axis])
    return places

"""Poses of KITTI raw from its GPS and IMU (the oxts files)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from depth_ros.types import Float64Array, InputError

EARTH_RADIUS_M = 6378137.0


def load_oxts_poses(folder: Path, frames: Sequence[int]) -> Float64Array:
    """World_T_imu (N, 4, 4) [m] of the frames: x east, y north, z up, with the first frame's position as the origin.

    Latitude and longitude become metres by a Mercator projection that is scaled to be true at the first frame's latitude;
    the IMU's axes (x forward, y left, z up) are turned by roll, pitch, then yaw (Geiger et al., IJRR 2013, section IV).
    Raises InputError for a missing or bad file.
    """
    latitude, longitude, altitude, roll, pitch, yaw = np.array([_read(folder / f"{frame:010d}.txt") for frame in frames]).T
    scale = EARTH_RADIUS_M * np.cos(np.radians(latitude[0]))
    east = scale * np.radians(longitude)
    north = scale * np.log(np.tan(np.pi / 4 + np.radians(latitude) / 2))
    position = np.stack([east, north, altitude], axis=1)
    poses = np.tile(np.eye(4), (len(frames), 1, 1))
    poses[:, :3, :3] = _about(2, yaw) @ _about(1, pitch) @ _about(0, roll)
    poses[:, :3, 3] = position - position[0]
    return poses


def _read(file: Path) -> list[float]:
    """Latitude and longitude [deg], altitude [m], roll, pitch and yaw [rad]."""
    try:
        values = [float(value) for value in file.read_text(encoding="utf-8").split()[:6]]
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: {error}; expected KITTI's oxts, or no folder oxts to do without poses") from error
    if len(values) < 6 or not np.isfinite(values).all():
        raise InputError(f"{file}: starts with {values}; expected latitude, longitude, altitude, roll, pitch, yaw")
    return values


def _about(axis: int, angle: Float64Array) -> Float64Array:
    """Rotations (N, 3, 3) by angles (N,) [rad] about an axis."""
    i, j = (axis + 1) % 3, (axis + 2) % 3
    rotation = np.tile(np.eye(3), (len(angle), 1, 1))
    rotation[:, i, i] = rotation[:, j, j] = np.cos(angle)
    rotation[:, j, i], rotation[:, i, j] = np.sin(angle), -np.sin(angle)
    return rotation

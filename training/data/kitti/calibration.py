"""KITTI's calibration files, and what their projection matrices say (Geiger et al., Vision meets Robotics, IJRR 2013).

P = K [I | t] (3, 4) takes points of the rectified camera 0 (left, grey) into the image of a camera at -t: the cameras 0 and 1
are grey, 2 and 3 colour, the even ones left. All images are rectified to one orientation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from depth_ros.types import CameraModel, Float64Array, InputError


@dataclass(frozen=True)
class Calibration:
    """The lines `name: number number ...` of one file."""

    path: Path
    values: Mapping[str, tuple[float, ...]]

    def array(self, name: str, *shape: int) -> Float64Array:
        """The numbers of a line in this shape. Raises InputError if the file has no such line or another count."""
        found = self.values.get(name, ())
        if len(found) != np.prod(shape):
            raise InputError(f"{self.path}: '{name}' has {len(found)} numbers; expected {np.prod(shape)}, as in KITTI's own file")
        array = np.array(found)
        if not np.isfinite(array).all():
            raise InputError(f"{self.path}: '{name}' is not finite; expected numbers, as in KITTI's own file")
        return array.reshape(shape)


def read_calibration(path: Path) -> Calibration:
    """Read a file; lines that hold no numbers (calib_time) are passed over. Raises InputError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {error}; expected KITTI's calibration file there") from error
    values = {}
    for name, _, numbers in (line.partition(":") for line in lines):
        try:
            values[name.strip()] = tuple(float(number) for number in numbers.split())
        except ValueError:
            continue
    return Calibration(path, values)


def camera_of(P: Float64Array, width: int, height: int) -> CameraModel:
    """Pinhole camera of a projection matrix (3, 4). Raises InputError."""
    return CameraModel(width, height, float(P[0, 0]), float(P[1, 1]), float(P[0, 2]), float(P[1, 2]))


def camera_T_reference(P: Float64Array) -> Float64Array:  # noqa: N802 (b_T_a: from a to b)
    """Pose (4, 4) [m] that takes points of the rectified camera 0 to the camera of P (3, 4): the shift t = K^-1 p4."""
    pose = np.eye(4)
    pose[:3, 3] = np.linalg.solve(P[:, :3], P[:, 3])
    return pose


def stereo_baseline_m(left: Float64Array, right: Float64Array, path: Path) -> float:
    """Distance [m] from the left to the right camera along x, of P (3, 4) each. Raises InputError, naming `path`.

    The few millimetres by which KITTI's colour cameras differ in y and z are left out.
    """
    if not np.allclose(left[:, :3], right[:, :3]):
        raise InputError(f"{path}: the left and the right camera have different K; expected a rectified pair with one K")
    baseline = float((camera_T_reference(left) - camera_T_reference(right))[0, 3])
    if not baseline > 0:
        raise InputError(f"{path}: the right camera is {baseline:g} m to the right of the left one; expected more than 0")
    return baseline


def rigid_transform(calibration: Calibration) -> Float64Array:
    """Pose (4, 4) [m] of the lines R and T of calib_velo_to_cam (camera 0, not rectified) or calib_imu_to_velo.

    Raises InputError.
    """
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = calibration.array("R", 3, 3), calibration.array("T", 3)
    return pose


def rectification(calibration: Calibration) -> Float64Array:
    """Rotation (4, 4) from camera 0 to the rectified camera 0, of calib_cam_to_cam. Raises InputError."""
    pose = np.eye(4)
    pose[:3, :3] = calibration.array("R_rect_00", 3, 3)
    return pose

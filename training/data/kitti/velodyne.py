"""Velodyne sweeps as sparse depth images, the way KITTI's published depth numbers were judged (Eigen et al., NIPS 2014)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from depth_ros.types import Float32Array, Float64Array, InputError

POINT_BYTES = 16  # x, y, z [m] and reflectance, float32


def load_points(path: Path) -> Float32Array:
    """Points (N, 3) [m] of a sweep: x forward, y to the left, z up. Raises InputError for a file that is cut off or bad."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; expected a Velodyne sweep") from error
    if not data or len(data) % POINT_BYTES:
        raise InputError(f"{path}: has {len(data)} bytes; expected a multiple of {POINT_BYTES} (x y z r): download it again")
    points: Float32Array = np.frombuffer(data, np.float32).reshape(-1, 4)[:, :3]
    if not np.isfinite(points).all():
        raise InputError(f"{path}: holds points that are not finite; expected metres: download it again")
    return points


def depth_image(points: Float32Array, image_T_velodyne: Float64Array, width: int, height: int, forward: bool) -> Float32Array:
    """Sparse depth (height, width) [m] of points (N, 3) [m] through a projection (3, 4) [px]; 0 where nothing was measured.

    As in KITTI's MATLAB code and every published Eigen number, a point falls into the pixel round(u) - 1, round(v) - 1, and
    the nearest of the points in a pixel counts. (That code drops points behind the Velodyne; in the image those are the same
    as the points behind the camera, 0.27 m further on.) `forward` chooses what is stored: the Velodyne's own x, as those
    numbers do, or the camera's z, which is depth proper and about 0.27 m less.
    """
    u, v, z = image_T_velodyne @ np.column_stack([points, np.ones(len(points))]).T
    ahead = z > 0
    value = (points[:, 0] if forward else z)[ahead]
    u, v, z = u[ahead], v[ahead], z[ahead]
    column, row = np.round(u / z) - 1, np.round(v / z) - 1
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    pixel = (row[inside] * width + column[inside]).astype(np.intp)
    nearest = np.full(height * width, np.inf)
    np.minimum.at(nearest, pixel, value[inside])
    return np.where(np.isfinite(nearest), nearest, 0).astype(np.float32).reshape(height, width)

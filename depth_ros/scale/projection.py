"""What range sensors measured, as depths at pixels of a camera; optical_T_sensor (4, 4) maps their points to its frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from depth_ros.cloud import rays
from depth_ros.scale import NoMeasurement
from depth_ros.types import CameraModel, DepthPrediction, Float64Array

NEAREST_M = 0.05  # points closer to the camera's plane, or behind it, project to nowhere
CONE_QUANTILE = 0.95  # of the factors that a cone's pixels ask for: the nearest surface, less a few pixels that err
Array = NDArray[np.floating]


@dataclass(frozen=True)
class Samples:
    """Measured depth at pixels of a camera, one for each pixel at most."""

    u: NDArray[np.intp]  # (n,) [px]
    v: NDArray[np.intp]  # (n,) [px]
    depth: Float64Array  # (n,) [m]
    sent: int  # measurements of the sensor, in view or not


def scan_points(ranges: Array, angle_min: float, angle_increment: float, range_min: float, range_max: float) -> Float64Array:
    """Return the points (n, 3) [m] of a laser scan in its own frame (angles about +z, from +x), those in range."""
    angles = angle_min + angle_increment * np.arange(ranges.size)
    with np.errstate(invalid="ignore"):
        good = np.isfinite(ranges) & (ranges >= range_min) & (ranges <= range_max) & (ranges > 0)
    r, a = ranges[good].astype(np.float64), angles[good]
    return np.stack([r * np.cos(a), r * np.sin(a), np.zeros_like(r)], axis=1)


def project(points: Array, optical_T_sensor: Float64Array, camera: CameraModel) -> Samples:
    """Return points (n, 3) [m] of a sensor as samples of `camera`; of several in one pixel the nearest counts."""
    seen = points[np.isfinite(points).all(axis=1)] @ optical_T_sensor[:3, :3].T + optical_T_sensor[:3, 3]
    x, y, z = seen[seen[:, 2] > NEAREST_M].T
    return _nearest(camera.fx * x / z + camera.cx, camera.fy * y / z + camera.cy, z, camera, len(points))


def image_samples(depth: Array, camera: CameraModel) -> Samples:
    """Return a sparse depth image (H, W) [m] of the camera's view, at any resolution; 0, NaN and inf are no measurement."""
    height, width = depth.shape
    v, u = np.nonzero(np.isfinite(depth) & (depth > NEAREST_M))
    at_u, at_v = (u + 0.5) * camera.width / width - 0.5, (v + 0.5) * camera.height / height - 0.5
    return _nearest(at_u, at_v, depth[v, u].astype(np.float64), camera, u.size)


def cone_sample(distance_m: float, field_of_view: float, optical_T_sensor: Float64Array, prediction: DepthPrediction) -> Samples:
    """Return the one sample of a sonar or infrared sensor: a cone about its +x axis, and the distance of the nearest thing in it.

    Nothing in the cone lies within the distance, and something at it: so the factor is the largest that any pixel of the cone
    asks for, when its ray is cut at that distance from the sensor. Raises NoMeasurement if the cone is not in view.
    """
    camera = prediction.camera
    columns, rows = (axis.astype(np.float64) for axis in rays(camera))
    x, y = np.meshgrid(columns, rows)
    ray = np.stack([x, y, np.ones_like(x)], axis=-1)  # (H, W, 3), z = 1
    origin, axis = optical_T_sensor[:3, 3], optical_T_sensor[:3, 0]
    # |z ray - origin| = distance, the far solution
    along, square = ray @ origin, np.sum(ray**2, axis=-1)
    root = along**2 - square * (origin @ origin - distance_m**2)
    z = (along + np.sqrt(np.maximum(root, 0))) / square
    inside = (root > 0) & (z > NEAREST_M) & np.isfinite(prediction.depth)
    inside &= (z[..., None] * ray - origin) @ axis >= distance_m * np.cos(field_of_view / 2)
    v, u = np.nonzero(inside)
    if not u.size:
        raise NoMeasurement("the range sensor's cone meets no depth: point it where the camera looks, and check its pose")
    factors = z[v, u] / prediction.depth[v, u]
    chosen = int(np.argsort(factors)[round(CONE_QUANTILE * (factors.size - 1))])
    pixel = slice(chosen, chosen + 1)
    return Samples(u[pixel], v[pixel], z[v, u][pixel], 1)


def _nearest(u: Float64Array, v: Float64Array, depth: Float64Array, camera: CameraModel, sent: int) -> Samples:
    column, row = np.floor(u + 0.5), np.floor(v + 0.5)
    inside = (column >= 0) & (column < camera.width) & (row >= 0) & (row < camera.height)
    pixels = row[inside].astype(np.intp) * camera.width + column[inside].astype(np.intp)
    nearest = np.full(camera.height * camera.width, np.inf)
    np.minimum.at(nearest, pixels, depth[inside])
    hit = np.flatnonzero(np.isfinite(nearest))
    return Samples(hit % camera.width, hit // camera.width, nearest[hit], sent)

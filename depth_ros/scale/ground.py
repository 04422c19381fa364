"""Scale from the camera's height above a flat ground."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from depth_ros.cloud import rays
from depth_ros.scale import Measurement, NoMeasurement, Scale
from depth_ros.scale.robust import grid_cells, robust_fit, thinned
from depth_ros.types import DepthPrediction, Float64Array

STEEPEST = 0.06  # a ground pixel's ray drops at least that much per metre: the ground within 17 camera heights
MIDDLE = (0.2, 0.8)  # columns, as shares of the width, in which ground is looked for
LEAST_PIXELS = 200
LEAST_INLIERS = 0.5  # share of the pixels that must lie on one plane
TILT_SIGMA = math.radians(1.0)  # of the ground against the camera, pitch and roll: suspension, slopes, mounting
MOST_TILT = math.radians(8.0)  # beyond which the plane that was found is no ground


def measure_height(prediction: DepthPrediction, height_m: float, pitch: float = 0.0) -> Measurement:
    """Return the scale at which the ground lies `height_m` below the camera, which looks down by `pitch` [rad].

    After DNet's dense geometric constraint (Xue et al., IROS 2020), as one fit: on the plane n . X = h inverse depth is
    linear in the ray, 1 / depth = (n . ray) / h, so a robust fit of theta = n / h finds ground among obstacles, with its
    covariance. The known tilt, within TILT_SIGMA, is then a second measurement of theta's direction. Raises NoMeasurement.
    """
    rays_kept, inverse, spread, cells = _lower_part(prediction, pitch)
    try:
        fit = robust_fit(rays_kept, inverse, spread, cells)
    except np.linalg.LinAlgError:
        raise NoMeasurement("no plane fits the lower part of the image") from None
    samples, inliers = len(inverse), int(fit.inliers.sum())
    if inliers < LEAST_INLIERS * samples:
        raise NoMeasurement(f"{inliers} of {samples} pixels in the lower image lie on one plane; expected half of them")
    down = np.array([0.0, math.cos(pitch), math.sin(pitch)])
    theta, covariance = fit.coefficients, fit.covariance
    length = float(np.linalg.norm(theta))
    tilt = math.acos(float(np.clip(theta @ down / length, -1, 1))) if length > 0 else math.pi
    if tilt > MOST_TILT:
        raise NoMeasurement(
            f"the plane in the lower part of the image is tilted by {math.degrees(tilt):.0f} degrees against the ground; "
            "expected the ground there: check scale.camera_pitch"
        )
    theta, covariance = _with_known_tilt(theta, covariance, down)
    length = float(np.linalg.norm(theta))
    normal = theta / length
    sigma = math.sqrt(normal @ covariance @ normal) / length
    return Measurement(Scale(height_m * length, sigma), inliers, samples)


def _lower_part(
    prediction: DepthPrediction, pitch: float
) -> tuple[Float64Array, Float64Array, Float64Array, NDArray[np.integer]]:
    """Rays (n, 3), inverse depth (n,), its spread (n,) and the image cells (n,) of the pixels where ground may be."""
    camera = prediction.camera
    ray_x, ray_y = (axis.astype(np.float64) for axis in rays(camera))
    drop = math.cos(pitch) * ray_y + math.sin(pitch)
    candidates = np.isfinite(prediction.depth) & (drop > STEEPEST)[:, None]
    columns = np.arange(camera.width)
    candidates &= (columns >= MIDDLE[0] * camera.width) & (columns < MIDDLE[1] * camera.width)
    v, u = np.nonzero(candidates)
    if v.size < LEAST_PIXELS:
        raise NoMeasurement(
            f"{v.size} pixels with depth look down at the ground; expected at least {LEAST_PIXELS}: "
            "camera_height needs a camera that sees the ground before it"
        )
    kept = thinned(v.size)
    v, u = v[kept], u[kept]
    depth, sigma = prediction.depth[v, u].astype(np.float64), prediction.sigma[v, u].astype(np.float64)
    stacked = np.stack([ray_x[u], ray_y[v], np.ones(v.size)], axis=1)
    return stacked, 1 / depth, sigma / depth**2, grid_cells(u, v, camera)


def _with_known_tilt(theta: Float64Array, covariance: Float64Array, down: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Kalman update: along the two directions across `down`, theta is 0 within TILT_SIGMA of its length."""
    across = np.array([[1.0, 0.0, 0.0], [0.0, -down[2], down[1]]])
    noise = np.eye(2) * (TILT_SIGMA * float(theta @ down)) ** 2
    gain = covariance @ across.T @ np.linalg.inv(across @ covariance @ across.T + noise)
    return theta - gain @ (across @ theta), (np.eye(3) - gain @ across) @ covariance

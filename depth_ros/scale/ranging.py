"""Scale, or scale and shift, from measured depths: of a range sensor, or triangulated over a driven distance."""

from __future__ import annotations

import math

import numpy as np

from depth_ros.scale import Measurement, NoMeasurement, Scale
from depth_ros.scale.projection import Samples
from depth_ros.scale.robust import Fit, grid_cells, robust_fit, thinned
from depth_ros.types import DepthPrediction, Float64Array

LEAST_SAMPLES = 20  # pairs below which a sensor that has many says nothing
LEAST_INLIERS = 0.5  # share of the pairs that must agree
SENSOR_SIGMA = 0.01  # relative noise of a range sensor and of its place; below it no pair is believed
MOST_SIGMA = 0.5  # relative standard deviation of the factor above which a fit says nothing


def measure_ranges(
    prediction: DepthPrediction, samples: Samples, affine: bool, least: int = LEAST_SAMPLES, spread: Float64Array | None = None
) -> Measurement:
    """Return what measured depths say on a prediction's scale. Raises NoMeasurement.

    Without a shift: the location of log(measured / predicted), where a truth above and one below count alike. `affine`: inverse
    depth measured = predicted / factor + shift. Either robustly (robust_fit), weighted by the prediction's own sigma;
    `spread` (n,) is the relative standard deviation of the samples, SENSOR_SIGMA if there is none.
    """
    depth, sigma = prediction.depth[samples.v, samples.u], prediction.sigma[samples.v, samples.u]
    known = np.flatnonzero(np.isfinite(depth))
    if known.size < least:
        raise NoMeasurement(
            f"{known.size} of {samples.sent} measured points lie where there is depth; expected at least {least}: "
            "point the sensor where the camera looks, and check its pose (scale.sensor_pose or /tf_static)"
        )
    known = known[thinned(known.size)]
    predicted, measured = depth[known].astype(np.float64), samples.depth[known]
    own = sigma[known] / predicted
    relative = np.hypot(own, SENSOR_SIGMA if spread is None else spread[known])
    cells = grid_cells(samples.u[known], samples.v[known], prediction.camera)
    try:
        if not affine:
            fit = robust_fit(np.ones((known.size, 1)), np.log(measured / predicted), relative, cells)
        else:
            # The noise is the prediction's, so it is in units of predicted inverse depth; a common factor is of no matter.
            fit = robust_fit(np.stack([1 / predicted, np.ones(known.size)], axis=1), 1 / measured, relative / measured, cells)
    except np.linalg.LinAlgError:
        raise NoMeasurement("the measured points lie at one depth; scale and shift need points at several") from None
    _check(fit, known.size)
    scale = _affine(fit) if affine else Scale(math.exp(fit.coefficients[0]), math.sqrt(fit.covariance[0, 0]))
    return Measurement(scale, int(fit.inliers.sum()), known.size, float(np.median(1 / measured)))


def _check(fit: Fit, samples: int) -> None:
    agree = int(fit.inliers.sum())
    if agree < LEAST_INLIERS * samples:
        raise NoMeasurement(
            f"{agree} of {samples} measured points agree with the prediction; expected half of them: check the sensor's pose"
        )


def _affine(fit: Fit) -> Scale:
    slope, shift = fit.coefficients
    slope_sigma, shift_sigma = np.sqrt(np.diag(fit.covariance))
    if not (slope > 0 and slope_sigma < MOST_SIGMA * slope):
        raise NoMeasurement(
            f"scale and shift do not follow from the measured points (slope {slope:.3g}, one sigma {slope_sigma:.2g}): "
            "they need points at several depths"
        )
    off = -fit.covariance[0, 1] / (slope_sigma * shift_sigma) if shift_sigma > 0 else 0.0  # the factor is 1 / slope
    return Scale(1 / slope, slope_sigma / slope, shift, shift_sigma, float(off))

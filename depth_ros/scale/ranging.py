"""Scale, or scale and shift, from measured depths: of a range sensor, or triangulated over a driven distance."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from depth_ros.scale import Measurement, NoMeasurement, Scale
from depth_ros.scale.projection import Samples
from depth_ros.scale.robust import Fit, grid_cells, robust_fit, thinned
from depth_ros.types import DepthPrediction, Float64Array

LEAST_SAMPLES = 20  # pairs below which a sensor that has many says nothing
LEAST_INLIERS = 0.5  # share of the pairs that must agree
MOST_SCATTER = 4.0  # of the inliers, in units of what the prediction's sigma says, above which they are of other things
SENSOR_SIGMA = 0.01  # relative noise of a range sensor and of its place; below it no pair is believed
MOST_TURN = 100.0  # of a slope, relative: it says nothing long before
MOST_SIGMA = 0.5  # relative standard deviation of the factor above which a fit says nothing


def measure_ranges(
    prediction: DepthPrediction, samples: Samples, affine: bool, least: int = LEAST_SAMPLES, spread: Float64Array | None = None
) -> Measurement:
    """Return what measured depths say on a prediction's scale. Raises NoMeasurement.

    Without a shift: the location of log(measured / predicted), where a truth above and one below count alike. `affine`: inverse
    depth measured = predicted / factor + shift. Either robustly (robust_fit), weighted by the prediction's own sigma;
    `spread` (n,) is the relative standard deviation of the samples, SENSOR_SIGMA if there is none.
    """
    known = np.flatnonzero(np.isfinite(prediction.depth[samples.v, samples.u]))
    if known.size < least:
        raise NoMeasurement(
            f"{known.size} of {samples.sent} measured points lie where there is depth; expected at least {least}: "
            "point the sensor where the camera looks, and check its pose (scale.sensor_pose or /tf_static)"
        )
    known = known[thinned(known.size)]
    u, v, measured = samples.u[known], samples.v[known], samples.depth[known]
    predicted = prediction.depth[v, u].astype(np.float64)
    own, others = prediction.sigma[v, u] / predicted, SENSOR_SIGMA if spread is None else spread[known]
    cells = grid_cells(u, v, prediction.camera)
    if affine:
        fit = _fit_affine(1 / predicted, 1 / measured, own, others, cells)
    else:
        fit = robust_fit(np.ones((known.size, 1)), np.log(measured / predicted), np.hypot(own, others), cells)
    _check(fit, known.size)
    scale = _affine(fit) if affine else Scale(math.exp(fit.coefficients[0]), math.sqrt(fit.covariance[0, 0]))
    return Measurement(scale, int(fit.inliers.sum()), known.size, float(np.median(1 / measured)))


def _fit_affine(
    predicted: Float64Array, measured: Float64Array, own: Float64Array, others: Float64Array | float, cells: NDArray[np.integer]
) -> Fit:
    """Fit measured = slope predicted + shift, all inverse depths; own and others are relative.

    By the bundle's contract the truth lies around the prediction, so the error of `measured` is slope x own x predicted. The
    slope is not known beforehand: a first fit takes the error to be own x measured.
    """
    design = np.stack([predicted, np.ones(predicted.size)], axis=1)
    try:
        slope = robust_fit(design, measured, np.hypot(own, others) * measured, cells).coefficients[0]
        spread = np.hypot(max(slope, 0.0) * own * predicted, others * measured)
        fit = robust_fit(design, measured, spread, cells)
    except np.linalg.LinAlgError:
        raise NoMeasurement("all measured points lie at one depth; scale and shift need points at several depths") from None
    if not fit.inliers.any():
        return fit  # is refused for that
    return replace(fit, covariance=fit.covariance + _dilution(fit, predicted, measured, fit.inliers / spread**2))


def _dilution(fit: Fit, predicted: Float64Array, measured: Float64Array, weight: Float64Array) -> Float64Array:
    """Covariance (2, 2) of slope and shift from not knowing on which side the error is.

    If the prediction lies around the truth (a wall on which it wobbles), not the truth around the prediction, the fitted slope
    is too small (regression dilution), and that of the reverse regression is right: larger by what is left unexplained over what
    is explained (Frisch 1934; Fuller, Measurement Error Models, 1987). So the line may have to be turned about the mean by up to
    that; of a turn that is as likely anywhere between, the root mean square is its largest over the root of 3.
    """
    slope, shift = fit.coefficients
    mean = np.average(predicted, weights=weight)
    explained = slope**2 * np.average((predicted - mean) ** 2, weights=weight)
    left = np.average((measured - slope * predicted - shift) ** 2, weights=weight)
    turn: Float64Array = np.array([1.0, -mean], np.float64) * (slope * min(left / max(explained, 1e-30), MOST_TURN))
    return (np.outer(turn, turn) / 3).astype(np.float64)


def _check(fit: Fit, samples: int) -> None:
    agree = int(fit.inliers.sum())
    if samples > 1 and fit.scatter > MOST_SCATTER:
        raise NoMeasurement(
            f"the measured points scatter {fit.scatter:.0f} times as far about the prediction as its sigma says: "
            "check the sensor's pose and stamps"
        )
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

"""How good depth and its sigma are, per image. NumPy only.

Throughout: depth, sigma and truth are (H, W) in metres, valid is a (H, W) mask of the pixels that count. Depth may be +inf
there (nothing in range: a prediction like any other, clamped to the cap) but not NaN: leave such pixels out of `valid`,
and report how many were answered. Every function raises InputError if no pixel is left or one of them is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from depth_ros.types import Float64Array, InputError

MIN_DEPTH_M = 1e-3
CAP_M = 80.0
DELTA = 1.25  # ratio of the accuracies delta1..3
RELIABILITY_LEVELS = np.linspace(0.05, 0.95, 19)  # nominal shares of the central intervals of reliability()

BoolArray = NDArray[np.bool_]
Array = NDArray[np.floating]
Curves = dict[str, dict[str, Float64Array]]  # metric -> ordering -> (51,) values over the removed share 0, .02, ..., 1


def valid_truth(truth: Array, cap_m: float = CAP_M, min_m: float = MIN_DEPTH_M) -> BoolArray:
    """Return where truth is a measurement between min_m and cap_m (0 and NaN are none)."""
    mask: BoolArray = (truth > min_m) & (truth < cap_m)
    return mask


def garg_crop(height: int, width: int) -> BoolArray:
    """Return the mask (height, width) of the crop used on KITTI (Garg et al., ECCV 2016)."""
    mask = np.zeros((height, width), np.bool_)
    mask[int(0.40810811 * height) : int(0.99189189 * height), int(0.03594771 * width) : int(0.96405229 * width)] = True
    return mask


def depth_errors(
    depth: Array, truth: Array, valid: BoolArray, cap_m: float = CAP_M, min_m: float = MIN_DEPTH_M
) -> dict[str, float]:
    """Return the usual errors (Eigen et al., NIPS 2014), with the prediction clamped to [min_m, cap_m].

    abs_rel, sq_rel [m], rmse [m], rmse_log (natural), delta1..3 (share with max ratio below 1.25, 1.25^2, 1.25^3), and two
    errors of log10: log10, the mean absolute one (NYU's), and rms_log10, its root mean square (Make3D's).
    """
    p, g = _pixels(valid, depth, truth)
    p = np.clip(p, min_m, cap_m)
    ratio = np.maximum(p / g, g / p)
    log = np.log(p / g)
    rmse_log = float(np.sqrt(np.mean(log**2)))
    return {
        "abs_rel": float(np.mean(np.abs(p - g) / g)),
        "sq_rel": float(np.mean((p - g) ** 2 / g)),
        "rmse": float(np.sqrt(np.mean((p - g) ** 2))),
        "rmse_log": rmse_log,
        **{f"delta{i}": float(np.mean(ratio < DELTA**i)) for i in (1, 2, 3)},
        "log10": float(np.mean(np.abs(log)) / math.log(10)),
        "rms_log10": rmse_log / math.log(10),
    }


def median_scale(depth: Array, truth: Array, valid: BoolArray) -> float:
    """Return the factor on depth that makes the medians equal, for depth that is true up to one factor."""
    p, g = _pixels(valid, depth, truth)
    return float(np.median(g) / np.median(p))


def coverage(depth: Array, sigma: Array, truth: Array, valid: BoolArray, k: float) -> float:
    """Return the share of pixels whose truth lies within k sigma (68 % at k = 1 for a calibrated Gaussian).

    Where depth is +inf, sigma is NaN and the truth counts as missed.
    """
    p, g = _pixels(valid, depth, truth)
    return float(np.mean(np.abs(p - g) <= k * sigma[valid]))


def reliability(depth: Array, sigma: Array, truth: Array, valid: BoolArray) -> Float64Array:
    """Return the coverage (19,) of the intervals that a Gaussian fills with RELIABILITY_LEVELS; calibrated: the same numbers."""
    p, g = _pixels(valid, depth, truth)
    ratio = np.sort(np.abs(p - g) / sigma[valid])  # NaN, a miss, comes last
    k = [NormalDist().inv_cdf((1 + level) / 2) for level in RELIABILITY_LEVELS]
    shares: Float64Array = np.searchsorted(ratio, k, side="right") / ratio.size
    return shares


def gaussian_nll(depth: Array, sigma: Array, truth: Array, valid: BoolArray) -> float:
    """Return the mean negative log-likelihood [nats] of the truth [m] under a Gaussian of mean depth and deviation sigma.

    log(sigma) + (depth - truth)^2 / (2 sigma^2) + log(2 pi) / 2. Where depth is +inf or sigma NaN nothing is stated: such
    pixels are left out (coverage counts them as missed); NaN if that leaves none. Raises InputError for a sigma of 0 or less.
    """
    p, g = _pixels(valid, depth, truth)
    s = sigma[valid].astype(np.float64)
    stated = np.isfinite(p) & ~np.isnan(s)
    if not stated.any():
        return math.nan
    p, g, s = p[stated], g[stated], s[stated]
    if not (s > 0).all():
        raise InputError(f"sigma is not positive at {int((~(s > 0)).sum())} of {s.size} pixels with depth; expected sigma > 0")
    return float(np.mean(np.log(s) + (p - g) ** 2 / (2 * s**2)) + 0.5 * math.log(2 * math.pi))


def sparsification(depth: Array, sigma: Array, truth: Array, valid: BoolArray, cap_m: float = CAP_M) -> dict[str, float]:
    """Return ause_ and aurg_ of abs_rel, rmse and delta1 (which stands for 1 - delta1) for pixels ranked by sigma."""
    return areas(sparsification_curves(depth, truth, valid, {"sigma": sigma}, cap_m), "sigma")


def sparsification_curves(
    depth: Array,
    truth: Array,
    valid: BoolArray,
    orderings: Mapping[str, Array],
    cap_m: float = CAP_M,
    min_m: float = MIN_DEPTH_M,
) -> Curves:
    """Return the sparsification curves of Poggi et al., CVPR 2020, for each metric and each of `orderings` (H, W).

    A curve is the metric over what is left after removing the 0, 2, ..., 98 % most uncertain pixels (0 at 100 %). The
    metrics are abs_rel, rmse and delta1, that is 1 - delta1. "oracle" removes the largest errors of that metric first (the
    relative error, the squared error, the maximum ratio). Pixels that tie with the last one kept are kept; uncertainty that
    is not finite goes first.
    """
    p, g = _pixels(valid, depth, truth)
    p = np.clip(p, min_m, cap_m)
    ratio = np.maximum(p / g, g / p)
    squared = (p - g) ** 2
    relative = np.abs(p - g) / g
    errors = {"abs_rel": relative, "rmse": squared, "delta1": (ratio >= DELTA).astype(np.float64)}
    oracles = {"abs_rel": relative, "rmse": squared, "delta1": ratio}
    kept = {name: _removal(u[valid].astype(np.float64)) for name, u in orderings.items()}
    curves: Curves = {}
    for metric, error in errors.items():
        removals = {"oracle": _removal(oracles[metric]), **kept}
        curves[metric] = {name: _curve(error, *removal) for name, removal in removals.items()}
    curves["rmse"] = {name: np.sqrt(curve) for name, curve in curves["rmse"].items()}
    return curves


def areas(curves: Curves, ordering: str) -> dict[str, float]:
    """Return AUSE (lower is better) and AURG (higher is better; below 0 is worse than random) of one ordering's curves.

    AUSE is the area above the oracle's curve, AURG the area below that of random removal, which stays at the metric of all
    pixels. Areas are trapezoids over the removed share, not normalised.
    """
    values = {}
    for metric, by_ordering in curves.items():
        area = _area(by_ordering[ordering])
        values[f"ause_{metric}"] = area - _area(by_ordering["oracle"])
        values[f"aurg_{metric}"] = float(by_ordering[ordering][0]) - area
    return values


def _pixels(valid: BoolArray, depth: Array, truth: Array) -> tuple[Float64Array, Float64Array]:
    """Return depth and truth of the valid pixels."""
    if not (depth.shape == truth.shape == valid.shape):
        raise InputError(f"depth is {depth.shape}, truth {truth.shape}, valid {valid.shape}; expected one size")
    if not valid.any():
        raise InputError("no pixel is valid; expected truth within range inside the image")
    p, g = depth[valid].astype(np.float64), truth[valid].astype(np.float64)
    missing = int(np.isnan(p).sum())
    if missing:
        raise InputError(f"depth is NaN at {missing} of {p.size} valid pixels; leave them out of valid and report their share")
    return p, g


def _removal(uncertainty: Float64Array) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the order of the pixels, most certain first, and how many are kept (50,) as 0, 2, ..., 98 % are removed."""
    finite = np.isfinite(uncertainty)
    if not finite.all():
        largest = uncertainty[finite].max() if finite.any() else 0.0
        uncertainty = np.where(finite, uncertainty, largest + abs(largest) + 1)
    order = np.argsort(uncertainty)
    thresholds = -np.percentile(-uncertainty, np.arange(0, 100, 2))
    return order, np.searchsorted(uncertainty[order], thresholds, side="right")


def _curve(error: Float64Array, order: NDArray[np.intp], kept: NDArray[np.intp]) -> Float64Array:
    """Return the mean error of what is kept (51,), 0 where nothing is."""
    return np.append(np.cumsum(error[order])[kept - 1] / kept, 0.0)


def _area(curve: Float64Array) -> float:
    return float(np.sum((curve[1:] + curve[:-1]) / 2) / (curve.size - 1))

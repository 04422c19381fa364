"""How good depth and its sigma are, per image. NumPy only.

Throughout: depth, sigma and truth are (H, W) in metres, valid is a (H, W) mask of the pixels that count. Depth may be +inf
there (nothing in range: a prediction like any other, clamped to the cap) but not NaN: leave such pixels out of `valid`,
and report how many were answered. Every function raises InputError if no pixel is left or one of them is NaN.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from depth_ros.types import Float64Array, InputError

MIN_DEPTH_M = 1e-3
CAP_M = 80.0

BoolArray = NDArray[np.bool_]
Array = NDArray[np.floating]


def valid_truth(truth: Array, cap_m: float = CAP_M, min_m: float = MIN_DEPTH_M) -> BoolArray:
    """Return where truth is a measurement between min_m and cap_m (0 and NaN are none)."""
    mask: BoolArray = (truth > min_m) & (truth < cap_m)
    return mask


def garg_crop(height: int, width: int) -> BoolArray:
    """Return the mask (height, width) of the crop used on KITTI (Garg et al., ECCV 2016)."""
    mask = np.zeros((height, width), np.bool_)
    mask[int(0.40810811 * height) : int(0.99189189 * height), int(0.03594771 * width) : int(0.96405229 * width)] = True
    return mask


def depth_errors(depth: Array, truth: Array, valid: BoolArray, cap_m: float = CAP_M) -> dict[str, float]:
    """Return the usual errors (Eigen et al., NIPS 2014), with the prediction clamped to [1 mm, cap_m].

    abs_rel, sq_rel [m], rmse [m], rmse_log (natural), delta1..3 (share with max ratio below 1.25, 1.25^2, 1.25^3).
    """
    p, g = _pixels(valid, depth, truth)
    p = np.clip(p, MIN_DEPTH_M, cap_m)
    ratio = np.maximum(p / g, g / p)
    return {
        "abs_rel": float(np.mean(np.abs(p - g) / g)),
        "sq_rel": float(np.mean((p - g) ** 2 / g)),
        "rmse": float(np.sqrt(np.mean((p - g) ** 2))),
        "rmse_log": float(np.sqrt(np.mean(np.log(p / g) ** 2))),
        **{f"delta{i}": float(np.mean(ratio < 1.25**i)) for i in (1, 2, 3)},
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


def sparsification(depth: Array, sigma: Array, truth: Array, valid: BoolArray, cap_m: float = CAP_M) -> dict[str, float]:
    """Return ause_abs_rel (lower is better) and aurg_abs_rel (higher is better; below 0 is worse than random).

    Poggi et al., CVPR 2020: AbsRel of what is left after removing the 0, 2, ..., 98 % most uncertain pixels (0 at 100 %)
    over the removed share. AUSE is the area above the curve of the oracle, which removes the largest errors first; AURG the
    area below random removal. Pixels are ranked by sigma as given; NaN sigma (depth is +inf) goes first.
    """
    p, g = _pixels(valid, depth, truth)
    error = np.abs(np.clip(p, MIN_DEPTH_M, cap_m) - g) / g
    uncertainty = sigma[valid].astype(np.float64)
    known = uncertainty[np.isfinite(uncertainty)]
    uncertainty[~np.isfinite(uncertainty)] = 2 * known.max() + 1 if known.size else 1.0
    area, oracle = _sparsification_area(error, uncertainty), _sparsification_area(error, error)
    return {"ause_abs_rel": area - oracle, "aurg_abs_rel": float(np.mean(error)) - area}


def mean_depth_map(truths: Array, leave_out: int, pooling: float = 0.0) -> Float64Array:
    """Return the baseline that has learned only the set's layout: (H, W) [m] from truths (N, H, W).

    The mean of log depth over all images but `leave_out`; a pixel that none of them measured takes its row's mean, a row
    without any the mean of all. `pooling` is the side of a square, as a share of the width, whose measurements a pixel shares:
    a few dozen sparse images are noisy per pixel, so a pooled map is a higher bar.
    """
    others = np.delete(truths, leave_out, axis=0)
    valid = valid_truth(others)
    if not valid.any():
        raise InputError(f"{len(truths)} images of truth hold no measurement besides image {leave_out}; expected some")
    logs = np.where(valid, np.log(others, where=valid, out=np.zeros(others.shape)), 0.0)
    side = max(1, int(pooling * truths.shape[2]))
    total, count = (_box_sum(values.sum(axis=0), side) for values in (logs, valid))
    everywhere = np.full(len(total), total.sum() / count.sum())
    rows = np.divide(total.sum(axis=1), count.sum(axis=1), where=count.any(axis=1), out=everywhere)
    mean = np.divide(total, count, where=count > 0, out=np.repeat(rows[:, None], total.shape[1], axis=1))
    result: Float64Array = np.exp(mean)
    return result


def _box_sum(values: Array, side: int) -> Float64Array:
    """Return the sum over a square window around each pixel, cut off at the borders."""
    sums: Float64Array = values.astype(np.float64)
    for axis, length in enumerate(values.shape):
        spread = np.apply_along_axis(np.convolve, axis, sums, np.ones(side), "full")
        sums = np.take(spread, np.arange(length) + (side - 1) // 2, axis)
    return sums


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


def _sparsification_area(error: Float64Array, uncertainty: Float64Array) -> float:
    """Return the area under mean error over removed share 0, .02, ..., 1, most uncertain first."""
    order = np.argsort(uncertainty)
    means = np.cumsum(error[order]) / np.arange(1, error.size + 1)
    thresholds = -np.percentile(-uncertainty, np.arange(0, 100, 2))
    kept = np.searchsorted(uncertainty[order], thresholds, side="right")  # all that are as certain as the threshold
    curve = np.append(means[kept - 1], 0.0)
    return float(np.sum((curve[1:] + curve[:-1]) / 2) / (curve.size - 1))

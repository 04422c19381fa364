"""How large a model's errors are on images with truth, in units of the sigma that it states."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

import numpy as np

from depth_ros import metrics
from depth_ros.bundle import ModelBundle
from depth_ros.engines import load_engine
from depth_ros.estimator import Estimator, upsample
from depth_ros.types import BoolArray, DepthPrediction, Float64Array, InputError
from training.data.truth import EvaluationItem, EvaluationSet

ONE_SIGMA = 0.6827  # share of a normal distribution within one standard deviation


@contextmanager
def running(bundle: ModelBundle) -> Iterator[Estimator]:
    """The estimator of a metric bundle on the engine that is always there. Raises BundleError or EngineError."""
    with closing(load_engine(bundle)) as engine:
        yield Estimator(bundle, engine)


def predictions(estimator: Estimator, dataset: EvaluationSet) -> Iterator[tuple[EvaluationItem, DepthPrediction, BoolArray]]:
    """Each image with its prediction at the camera's size and the pixels that count: measured, inside the crop, answered.

    Images without any are passed over.
    """
    for item in dataset:
        prediction = upsample(estimator.predict([item.frame])[0], item.frame.camera)
        valid = metrics.valid_truth(item.truth) & metrics.garg_crop(*item.truth.shape) & ~np.isnan(prediction.depth)
        if valid.any():
            yield item, prediction, valid


def weighted_quantile(values: Float64Array, weights: Float64Array, share: float) -> float:
    """The smallest of `values` that `share` of the weight does not exceed."""
    order = np.argsort(values)
    index = np.searchsorted(np.cumsum(weights[order]), share * weights.sum())
    return float(values[order][min(int(index), len(order) - 1)])


def sigma_factor(estimator: Estimator, dataset: EvaluationSet) -> float:
    """Factor on sigma with which ONE_SIGMA of the set's pixels (images weighted alike) err by less than sigma.

    A pixel that the model puts out of range (+inf) has no sigma and is a miss, as in metrics.coverage(). Raises InputError if
    there is no truth, or so many are out of range that no factor will do.
    """
    ratios, weights = [], []
    for item, prediction, valid in predictions(estimator, dataset):
        depth, sigma = prediction.depth[valid], prediction.sigma[valid]
        ratio = np.where(np.isfinite(depth), np.abs(depth - item.truth[valid]) / sigma, np.inf)
        ratios.append(ratio)
        weights.append(np.full(ratio.size, 1 / ratio.size))
    if not ratios:
        raise InputError(f"{dataset.name}: no image has truth to calibrate sigma with")
    factor = weighted_quantile(np.concatenate(ratios), np.concatenate(weights), ONE_SIGMA)
    if not np.isfinite(factor):
        raise InputError(
            f"{dataset.name}: over {1 - ONE_SIGMA:.0%} of the measured pixels are out of this model's range, so sigma cannot be "
            "calibrated; expected depth there: raise network.max_depth, or calibrate on nearer scenes"
        )
    return factor

"""Sigmas for networks that state none: a constant share of depth, how far the mirrored image's answer is, or a table by depth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from depth_ros.estimator import Estimator, focal_factor
from depth_ros.types import Float64Array, InputError
from training.calibration import ONE_SIGMA, predictions, weighted_quantile
from training.data.truth import EvaluationSet

SHARE = 0.2  # of depth, where nothing was measured
FLOOR = 0.02  # of depth: two runs that happen to agree do not make a pixel certain
BINS = 8  # of depth, alike in their number of pixels


class Sigma(Protocol):
    """Sigma as a share of depth, in the graph and, for the check of that, in NumPy."""

    mirrors: bool  # whether it needs the depth of the mirrored image
    text: str  # nodes from `depth` (and `depth_mirrored`) to `share`, in ONNX's text syntax

    def constants(self) -> Mapping[str, Any]:
        """What the text names besides."""

    def share(self, depth: Float64Array, mirrored: Float64Array | None) -> Float64Array:
        """The same for depth (N, h, w), and that of the mirrored images, mirrored back."""


@dataclass(frozen=True)
class Constant:
    """A constant share of depth."""

    value: float = SHARE
    mirrors = False
    text = "share = Identity (stated)"

    def constants(self) -> Mapping[str, Any]:
        """See Sigma."""
        return {"stated": np.float32(self.value)}

    def share(self, depth: Float64Array, mirrored: Float64Array | None) -> Float64Array:
        """See Sigma."""
        return np.full_like(depth, self.value)


@dataclass(frozen=True)
class Flip:
    """Difference of inverse depth from that of the mirrored image, over inverse depth, but at least `floor`. Two passes."""

    floor: float = FLOOR
    mirrors = True
    text = """
    ratio = Div (depth, depth_mirrored)
    excess = Sub (one, ratio)
    apart = Abs (excess)
    share = Max (apart, stated)"""

    def constants(self) -> Mapping[str, Any]:
        """See Sigma."""
        return {"stated": np.float32(self.floor)}

    def share(self, depth: Float64Array, mirrored: Float64Array | None) -> Float64Array:
        """See Sigma."""
        inverse, other = 1 / depth, 1 / np.asarray(mirrored)
        return np.maximum(np.abs(inverse - other) / inverse, self.floor)


@dataclass(frozen=True)
class Table:
    """A share that is linear in log depth between (depth, share), and constant beyond the first and the last."""

    depths: tuple[float, ...]  # growing, of the training camera
    shares: tuple[float, ...]
    mirrors = False
    # The first share, and at each depth of the table what the slope changes by.
    text = """
    not_nearer = Max (depth, nearest)
    not_farther = Min (not_nearer, farthest)
    place = Log (not_farther)
    place_column = Unsqueeze (place, last_axis)
    past = Sub (place_column, places)
    passed = Relu (past)
    terms = Mul (passed, bends)
    change = ReduceSum <keepdims = 0> (terms, last_axis)
    share = Add (change, stated)"""

    def constants(self) -> Mapping[str, Any]:
        """See Sigma."""
        places, shares = np.log(self.depths), np.asarray(self.shares)
        slopes = np.diff(shares) / np.diff(places)
        return {
            "nearest": np.float32(self.depths[0]), "farthest": np.float32(self.depths[-1]),
            "places": places[:-1].astype(np.float32), "bends": np.diff(slopes, prepend=0).astype(np.float32),
            "stated": np.float32(shares[0]), "last_axis": np.array([3], np.int64),
        }  # fmt: skip

    def share(self, depth: Float64Array, mirrored: Float64Array | None) -> Float64Array:
        """See Sigma."""
        place = np.log(np.clip(depth, self.depths[0], self.depths[-1]))
        return np.interp(place, np.log(self.depths), self.shares)


def parse_sigma(text: str) -> Constant | Flip | None:
    """What --sigma says: constant, constant:0.2, flip or flip:0.02; none for fit:DATA. Raises InputError."""
    kinds = {"constant": Constant, "flip": Flip}
    name, colon, value = text.partition(":")
    if name == "fit" and value:
        return None
    try:
        sigma = kinds[name](float(value)) if colon else kinds[name]()
        if not 0 < float(value or 1) < float("inf"):
            raise ValueError
    except (KeyError, ValueError):
        raise InputError(f"--sigma {text}: expected constant:SHARE, flip, flip:FLOOR (above 0) or fit:DATA") from None
    return sigma


def fit_table(estimator: Estimator, dataset: EvaluationSet) -> Table | Constant:
    """The share of depth that ONE_SIGMA of the set's pixels err by less than, by depth; images weigh alike.

    Raises InputError if nothing is measured in the model's range.
    """
    places, errors, weights = [], [], []
    for item, prediction, valid in predictions(estimator, dataset):
        valid = valid & np.isfinite(prediction.depth)
        depth = prediction.depth[valid].astype(np.float64)
        camera = item.frame.camera.resized(estimator.bundle.width, estimator.bundle.height)
        places.append(np.log(depth / focal_factor(camera, estimator.bundle)))
        errors.append(np.abs(depth - item.truth[valid]) / depth)
        weights.append(np.full(depth.size, 1 / max(depth.size, 1)))
    if not sum(map(len, places)):
        raise InputError(f"{dataset.name}: no truth where the model has depth; expected images to fit sigma on")
    place, error, weight = (np.concatenate(values) for values in (places, errors, weights))
    order = np.array_split(np.argsort(place), BINS)
    middles = np.array([np.mean(place[part]) for part in order if part.size])
    shares = np.array([weighted_quantile(error[part], weight[part], ONE_SIGMA) for part in order if part.size])
    _, kept = np.unique(np.round(middles, 3), return_index=True)
    if len(kept) == 1:
        return Constant(float(weighted_quantile(error, weight, ONE_SIGMA)))
    return Table(tuple(np.exp(middles[kept]).tolist()), tuple(shares[kept].tolist()))

"""One protocol, one set, any source of predictions: scores, curves and a breakdown of its errors."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol as Interface

import cv2
import numpy as np
from tqdm import tqdm

from depth_ros import metrics
from depth_ros.types import BoolArray, Float32Array, Float64Array, InputError
from training.data.truth import EvaluationItem, EvaluationSet
from training.judging.baselines import POOLING, gather
from training.judging.breakdown import Breakdown, image_gradient
from training.judging.protocols import Prediction, Protocol, align, median_ratio, scale_and_shift

Scores = dict[str, float]
ORDERINGS = ("sigma", "depth", "disparity", "gradient")  # what pixels are ranked by; all but the first are trivial
NO_TRUTH = "no truth within the protocol's range and crop"
NO_ANSWER = "no prediction where the truth is"


class SkipError(Exception):
    """An image cannot be judged; the text says why and is counted."""


class Candidate(Interface):
    """Whatever states depth: a model, a baseline, or a folder of somebody's predictions."""

    kind: str  # of depth_ros.bundle.KINDS

    def predict(self, item: EvaluationItem, protocol: Protocol) -> Prediction:
        """The prediction at the truth's size. Raises SkipError if there is none for this image."""


@dataclass(frozen=True)
class Judgement:
    """How one candidate did on one set."""

    scaling: str  # of protocols.SCALINGS
    scores: Scores  # means over images, and `images`, their number
    orderings: Mapping[str, Scores]  # of ORDERINGS -> ause_ and aurg_ of each metric
    curves: metrics.Curves  # means over images
    reliability: Float64Array | None  # (19,) at metrics.RELIABILITY_LEVELS; none without sigma
    groups: Mapping[str, Scores]  # of breakdown.GROUPS -> errors over all their pixels
    notes: tuple[str, ...] = ()  # what was skipped or is odd


def judge_set(candidate: Candidate, dataset: EvaluationSet, protocol: Protocol) -> Judgement:
    """Judge a candidate on a set. Raises InputError if there is nothing to judge."""
    scaling = protocol.scaling_for(candidate.kind)
    factor = _sequence_factor(candidate, dataset, protocol) if scaling == "sequence" else 1.0
    total = _Total(dataset, protocol, scaling)
    for item, valid, prediction in _predictions(candidate, dataset, protocol, total.skipped):
        if scaling == "scale_shift":
            total.inverted += scale_and_shift(prediction.depth, item.truth, valid)[0] < 0
        else:
            total.ratios.append(median_ratio(prediction.depth, item.truth, valid))
        total.add(item, valid, align(prediction, item.truth, valid, scaling, factor))
    return total.judgement()


def by_scaling(candidates: Mapping[str, Candidate], protocol: Protocol) -> dict[Protocol, dict[str, Candidate]]:
    """Candidates that are aligned alike, by the protocol with that scaling: numbers of two scalings are in no table together."""
    groups: dict[Protocol, dict[str, Candidate]] = {}
    for name, candidate in candidates.items():
        groups.setdefault(replace(protocol, scaling=protocol.scaling_for(candidate.kind)), {})[name] = candidate
    return groups or {protocol: {}}


def judge_baselines(dataset: EvaluationSet, protocol: Protocol) -> dict[str, Judgement]:
    """A constant depth, and the set's own leave-one-out mean map, as it is and pooled: the bar for every model."""
    statistics = gather((item.truth for item in dataset), protocol.in_range)
    if not statistics.count.any():
        raise _nothing_to_judge(dataset, Counter())
    constant = np.float32(statistics.constant())
    maps: dict[str, Callable[[Float32Array], Float32Array]] = {"constant": lambda truth: np.full(truth.shape, constant)}
    if statistics.images > 1:
        maps |= {"mean map": statistics.mean_map, "mean map, pooled": lambda truth: statistics.mean_map(truth, POOLING)}
    return {name: judge_set(_Map(depth_map), dataset, protocol) for name, depth_map in maps.items()}


@dataclass(frozen=True)
class _Map:
    """A baseline: depth from the truths of the other images."""

    depth_map: Callable[[Float32Array], Float32Array]
    kind: str = "metric"

    def predict(self, item: EvaluationItem, protocol: Protocol) -> Prediction:
        depth = self.depth_map(item.truth)
        return Prediction(depth, np.float32(0.2) * depth)  # no sigma of its own: a constant relative one, which orders by depth


@dataclass
class _Total:
    """Sums over the images of a set."""

    dataset: EvaluationSet
    protocol: Protocol
    scaling: str
    skipped: Counter[str] = field(default_factory=Counter)
    inverted: int = 0
    ratios: list[float] = field(default_factory=list)
    scores: list[Scores] = field(default_factory=list)
    curves: list[metrics.Curves] = field(default_factory=list)
    reliability: list[Float64Array] = field(default_factory=list)
    breakdown: Breakdown = field(default_factory=Breakdown)

    def add(self, item: EvaluationItem, valid: BoolArray, prediction: Prediction) -> None:
        """Score one aligned prediction (H, W) at the valid pixels, which it answers."""
        truth, protocol = item.truth, self.protocol
        image = cv2.resize(item.frame.image, truth.shape[::-1], interpolation=cv2.INTER_AREA)
        clamped = np.clip(prediction.depth, protocol.clamp_min_m, protocol.clamp_max_m)
        scores = image_scores(prediction, truth, valid, protocol)
        if self.scaling == "scale_shift":  # another alignment on top would say nothing
            del scores["abs_rel_median_scaled"]
        scores["answered"] = float(valid.sum() / protocol.mask(truth).sum())
        gradient = image_gradient(image)
        orderings = _orderings(prediction, clamped, gradient)
        self.scores.append(scores)
        self.curves.append(
            metrics.sparsification_curves(clamped, truth, valid, orderings, protocol.clamp_max_m, protocol.clamp_min_m)
        )
        if prediction.sigma is not None:
            self.reliability.append(metrics.reliability(prediction.depth, prediction.sigma, truth, valid))
        self.breakdown.add(clamped, truth, valid, gradient, item.moving)

    def judgement(self) -> Judgement:
        """The means. Raises InputError if no image could be judged."""
        if not self.scores:
            raise _nothing_to_judge(self.dataset, self.skipped)
        names = [name for name in ORDERINGS if all(name in curves["abs_rel"] for curves in self.curves)]  # fair: all or none
        orderings = {name: mean_scores([metrics.areas(curves, name) for curves in self.curves]) for name in names}
        scores = mean_scores(self.scores) | orderings.get("sigma", {}) | self._scale() | self.breakdown.edge_scores()
        return Judgement(
            self.scaling,
            scores | {"images": len(self.scores)},
            orderings,
            _mean_curves(self.curves),
            np.mean(self.reliability, axis=0) if self.reliability else None,
            self.breakdown.scores(),
            self._notes(),
        )

    def _scale(self) -> Scores:
        """Median of the images' ratios of medians, and the spread of the ratios over it: a metric model has 1 and little."""
        if not self.ratios:
            return {}
        median = float(np.median(self.ratios))
        return {"scale": median, "scale_spread": float(np.std(np.array(self.ratios) / median))}

    def _notes(self) -> tuple[str, ...]:
        notes = [f"{count} of {len(self.dataset)} images not judged: {why}" for why, count in self.skipped.items()]
        without = len(self.dataset) - len(self.scores) - sum(self.skipped.values())
        if without:
            notes.append(f"{without} of {len(self.dataset)} images not judged: no truth file")
        if self.inverted:
            notes.append(
                f"{self.inverted} images were aligned with a negative scale: does the candidate state what it is said to?"
            )
        return tuple(notes)


def image_scores(prediction: Prediction, truth: Float32Array, valid: BoolArray, protocol: Protocol) -> Scores:
    """Figures of one aligned prediction: errors, abs_rel_median_scaled, and those of sigma where there is one."""
    depth, sigma = prediction.depth, prediction.sigma
    low, high = protocol.clamp_min_m, protocol.clamp_max_m
    scores = metrics.depth_errors(depth, truth, valid, high, low)
    scaled = depth * np.float32(median_ratio(depth, truth, valid))
    scores["abs_rel_median_scaled"] = metrics.depth_errors(scaled, truth, valid, high, low)["abs_rel"]
    if sigma is not None:
        scores |= {f"coverage_{k}sigma": metrics.coverage(depth, sigma, truth, valid, k) for k in (1, 2)}
        scores["nll"] = metrics.gaussian_nll(depth, sigma, truth, valid)
    return scores


def mean_scores(scores: Sequence[Scores]) -> Scores:
    """Mean of each figure over the images that have it."""
    values: defaultdict[str, list[float]] = defaultdict(list)
    for image in scores:
        for key, value in image.items():
            if not math.isnan(value):
                values[key].append(value)
    return {key: float(np.mean(found)) for key, found in values.items()}


def _predictions(
    candidate: Candidate, dataset: EvaluationSet, protocol: Protocol, skipped: Counter[str]
) -> Iterator[tuple[EvaluationItem, BoolArray, Prediction]]:
    """Each image that has truth and a prediction, with the pixels that count and are answered."""
    for item in tqdm(dataset, desc=dataset.name, leave=False, disable=None):
        valid = protocol.mask(item.truth)
        if not valid.any():
            skipped[NO_TRUTH] += 1
            continue
        try:
            prediction = candidate.predict(item, protocol)
        except SkipError as reason:
            skipped[str(reason)] += 1
            continue
        answered = valid & ~np.isnan(prediction.depth)
        if not answered.any():
            skipped[NO_ANSWER] += 1
            continue
        yield item, answered, prediction


def _sequence_factor(candidate: Candidate, dataset: EvaluationSet, protocol: Protocol) -> float:
    """Median over the images of median(truth) / median(depth); 1 where no image can be compared."""
    ratios = [median_ratio(p.depth, i.truth, valid) for i, valid, p in _predictions(candidate, dataset, protocol, Counter())]
    return float(np.median(ratios)) if ratios else 1.0


def _orderings(prediction: Prediction, clamped: Float32Array, gradient: Float32Array) -> dict[str, Float32Array]:
    trivial = {"depth": clamped, "disparity": 1 / clamped, "gradient": gradient}
    return trivial if prediction.sigma is None else {"sigma": prediction.sigma, **trivial}


def _mean_curves(curves: Sequence[metrics.Curves]) -> metrics.Curves:
    return {
        metric: {
            name: np.mean([c[metric][name] for c in curves], axis=0) for name in by_name if all(name in c[metric] for c in curves)
        }
        for metric, by_name in curves[0].items()
    }


def _nothing_to_judge(dataset: EvaluationSet, skipped: Counter[str]) -> InputError:
    why = "; ".join(f"{count} images: {reason}" for reason, count in skipped.items())
    return InputError(
        f"{dataset.name}: no image has truth to compare with{f' ({why})' if why else ''}; "
        "expected truth files named like the images"
    )

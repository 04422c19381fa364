"""What depth and sigma become where an image shows nothing: one square of each image is covered with its mean colour."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.suites import UNSEEN_STREETS
from depth_ros.types import BoolArray, Float32Array, InputError, UInt8Array
from training.data.truth import EvaluationItem, EvaluationSet
from training.judging.judge import Candidate
from training.judging.protocols import Prediction

PROTOCOL = UNSEEN_STREETS.protocol
SIDE = 3 / 8  # of the image's height
PANELS = ("depth", "sigma / depth", "depth, square covered", "sigma / depth, square covered")
BRIGHTEST = 0.5  # sigma / depth


@dataclass(frozen=True)
class Covered:
    """One image, as it is and with its square covered; the truth has the image's size."""

    item: EvaluationItem
    square: BoolArray  # (H, W)
    image: UInt8Array  # (H, W, 3) with the square covered
    shown: Prediction
    hidden: Prediction


def cover(candidate: Candidate, dataset: EvaluationSet) -> Iterator[Covered]:
    """Every image; where the square lies depends on the image's index alone."""
    for index, item in enumerate(dataset):
        square = square_of(index, item.truth.shape)
        image = item.frame.image.copy()
        image[square] = image.mean(axis=(0, 1))
        covered = replace(item, frame=replace(item.frame, image=image))
        yield Covered(item, square, image, candidate.predict(item, PROTOCOL), candidate.predict(covered, PROTOCOL))


def square_of(index: int, shape: tuple[int, ...]) -> BoolArray:
    """Where the square of image `index` lies in an image of shape (H, W): anywhere within its lower two thirds."""
    height, width = shape
    side = round(SIDE * height)
    rng = np.random.default_rng(index)
    top, left = rng.integers(height // 3, height - side + 1), rng.integers(0, width - side + 1)
    square = np.zeros(shape, bool)
    square[top : top + side, left : left + side] = True
    return square


def score(candidate: Candidate, dataset: EvaluationSet) -> dict[str, float]:
    """Figures over all covered pixels with truth whose depth is finite, covered or not. Raises InputError if there are none.

    abs_rel_shown, abs_rel_hidden: AbsRel there before and after; sigma_ratio: median of how many times larger sigma / depth
    became; coverage_1sigma_hidden: share of errors within one sigma, 0.68 if it is honest there too; told: how often a covered
    pixel has a larger sigma / depth than an uncovered one of the same image (0.5: it does not know, 1: always).
    """
    shown, hidden, ratio, within, told = [], [], [], [], []
    for one in cover(candidate, dataset):
        answered = PROTOCOL.mask(one.item.truth) & np.isfinite(one.shown.depth) & np.isfinite(one.hidden.depth)
        inside, truth = answered & one.square, one.item.truth
        if not inside.any():
            continue
        shown.append(np.abs(one.shown.depth - truth)[inside] / truth[inside])
        error = np.abs(one.hidden.depth - truth)
        hidden.append(error[inside] / truth[inside])
        within.append(error[inside] <= one.hidden.sigma[inside])
        before, after = (relative_sigma(p) for p in (one.shown, one.hidden))
        ratio.append(after[inside] / before[inside])
        told.append(share_above(after[inside], after[answered & ~one.square]))
    if not shown:
        raise InputError(f"{dataset.name}: no covered pixel has truth and a finite depth; expected images with truth below 80 m")
    means = {"abs_rel_shown": shown, "abs_rel_hidden": hidden, "coverage_1sigma_hidden": within}
    figures = {name: float(np.concatenate(values).mean()) for name, values in means.items()}
    return figures | {"sigma_ratio": float(np.median(np.concatenate(ratio))), "told": float(np.mean(told))}


def relative_sigma(prediction: Prediction) -> Float32Array:
    """Sigma over depth (H, W)."""
    return prediction.sigma / prediction.depth


def share_above(values: Float32Array, others: Float32Array) -> float:
    """Share of pairs whose value lies above the other, ties counting half: the area under the ROC curve."""
    ordered = np.sort(others)
    below, up_to = (np.searchsorted(ordered, values, side) for side in ("left", "right"))
    return float(np.mean(below + up_to) / (2 * len(others)))


def draw(candidates: Mapping[str, Candidate], dataset: EvaluationSet, file: Path, index: int = 0) -> None:
    """The image, its truth and the covered image; below, PANELS of every candidate."""
    one = replace(dataset, targets=dataset.targets[index : index + 1])
    rows = {name: next(cover(candidate, one)) for name, candidate in candidates.items()}
    figure = Figure(figsize=(2.6 * len(PANELS) + 1.2, 0.4 + 0.95 * (1 + len(rows))), layout="constrained")
    axes = figure.subplots(1 + len(rows), len(PANELS), squeeze=False)
    first = next(iter(rows.values()))
    near, far = np.percentile(np.log(first.item.truth[PROTOCOL.mask(first.item.truth)]), (2, 98))
    depth_range, sigma_range = {"vmin": near, "vmax": far, "cmap": "magma_r"}, {"vmin": 0, "vmax": BRIGHTEST, "cmap": "viridis"}
    axes[0][0].imshow(first.item.frame.image)
    axes[0][1].imshow(np.log(first.item.truth.clip(min=1e-3)), **depth_range)
    axes[0][2].imshow(first.image)
    for axis, title in zip(axes[0], ("image", "true depth", "square covered", ""), strict=True):
        axis.set_title(title, fontsize=9)
    for row, (name, found) in zip(axes[1:], rows.items(), strict=True):
        row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
        for axes_pair, prediction in ((row[:2], found.shown), (row[2:], found.hidden)):
            axes_pair[0].imshow(np.log(prediction.depth), **depth_range)
            axes_pair[1].imshow(relative_sigma(prediction), **sigma_range)
    for axis, title in zip(axes[1], PANELS, strict=True):
        axis.set_title(title, fontsize=9)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    axes[0][3].axis("off")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=80)

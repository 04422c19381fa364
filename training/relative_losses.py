"""Losses of relative inverse depth, true up to a scale and a shift per image: MiDaS (Ranftl et al., TPAMI 2022) and its rivals.

Each takes a prediction and a truth (B, 1, H, W), both inverse depth, and where the truth is known (bool, same shape), and answers
with Errors. What is said to be invariant is so to a positive scale and to a shift, each image's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from training.alignment import LEAST_PIXELS, LEAST_SCALE, PIXELS, ascending, centre_and_spread, count, least_squares, mean

EQUAL = 0.02  # of the truth's spread: points that are closer together have no order
LEAST_INVERSE = 1e-6  # of what a logarithm is taken of


@dataclass(frozen=True)
class Errors:
    """A loss before its mean over the samples. One that does not count has too few valid pixels, or no scale can be told."""

    values: Tensor  # (B,), 0 for a sample that does not count
    counted: Tensor  # (B,) bool
    residual: Tensor  # (B, 1, H, W) aligned prediction less aligned truth, for gradient_matching(); 0 where there is none


@dataclass(frozen=True)
class RelativeLoss:
    """An entry of LOSSES."""

    errors: Callable[..., Errors]  # of prediction, truth, valid, and the options
    options: tuple[str, ...] = ()  # keyword arguments, the configuration's `midas` having keys of the same names
    unit_truth: bool = False  # whether it grows with the truth's scale, so that the truth has to be brought to [0, 1]


def ssimse(prediction: Tensor, truth: Tensor, valid: Tensor) -> Errors:
    """1/(2M) sum of squares after the least-squares fit of the prediction to the truth (equations 1 and 4).

    Invariant to the prediction's scale and shift and to the truth's shift; it grows with the square of the truth's scale.
    Gradients flow through scale and shift. A map that is upside down takes the size of its scale, not the sign, which the paper
    leaves open: the fit itself would reward it. With r the correlation, the loss is 1 - r^2 where r > 0 and 1 + 3 r^2 elsewhere,
    in units of half the truth's variance.
    """
    prediction, truth = _known(prediction, valid), _known(truth, valid)
    scale, _, usable = least_squares(prediction, truth, valid)
    residual = scale.abs() * (prediction - mean(prediction, valid)) - (truth - mean(truth, valid))
    residual = _known(residual, valid & usable)
    return _errors(mean(residual.square(), valid) / 2, usable, residual)


def ssimae(prediction: Tensor, truth: Tensor, valid: Tensor) -> Errors:
    """1/(2M) sum of absolute differences, both maps divided by their spread around their median (equations 5 to 7). Invariant."""
    return ssitrim(prediction, truth, valid, trimmed=0.0)


def ssitrim(prediction: Tensor, truth: Tensor, valid: Tensor, trimmed: float = 0.2) -> Errors:
    """As ssimae(), without the share `trimmed` of each image's largest differences (equation 8). Invariant."""
    prediction, truth = _known(prediction, valid), _known(truth, valid)
    centre, spread, usable = centre_and_spread(prediction, valid)
    true_centre, true_spread, true_usable = centre_and_spread(truth, valid)
    usable = usable & true_usable
    aligned = (prediction - centre) / torch.where(usable, spread, 1.0)
    residual = _known(aligned - (truth - true_centre) / torch.where(usable, true_spread, 1.0), valid & usable)
    return _errors(trimmed_mean(residual, valid, trimmed) / 2, usable, residual)


def trimmed_mean(residual: Tensor, valid: Tensor, trimmed: float) -> Tensor:
    """Sum (B,) of each image's |residuals| but the share `trimmed` of the largest, over the number of all its valid pixels."""
    number = count(valid).flatten(1)
    kept = number - (trimmed * number.double()).floor()
    smallest = torch.arange(residual[0].numel(), device=residual.device) < kept
    values = torch.where(smallest, ascending(residual.abs(), valid), 0.0)
    return values.sum(dim=1) / number.flatten().clamp(min=1)


def gradient_matching(residual: Tensor, valid: Tensor, scales: int = 4) -> Tensor:
    """1/M sum over `scales` levels of |dx R| + |dy R| (equation 11): (B,).

    Level k takes every 2^k-th pixel, and the differences whose two pixels are both valid. M is the number of the image's valid
    pixels in full resolution, as in the paper: a coarser level, which has fewer differences, counts less. (The public code
    divides each level by its own number of valid pixels in the whole batch.)
    """
    total = residual.new_zeros(len(residual))
    for change, known in _differences(residual, valid, scales):
        total = total + torch.where(known, change.abs(), 0.0).sum(dim=PIXELS)
    return total / count(valid).flatten().clamp(min=1)


def simse(prediction: Tensor, truth: Tensor, valid: Tensor) -> Errors:
    """1/(2M) sum of squares after the least-squares scale, without a shift. Invariant to the prediction's scale alone."""
    prediction, truth = _known(prediction, valid), _known(truth, valid)
    square = mean(prediction.square(), valid)
    scale = mean(prediction * truth, valid) / torch.where(square > 0, square, 1.0)
    usable = (count(valid) >= LEAST_PIXELS) & (scale >= LEAST_SCALE)
    residual = _known(scale * prediction - truth, valid & usable)
    return _errors(mean(residual.square(), valid) / 2, usable, residual)


def silog(prediction: Tensor, truth: Tensor, valid: Tensor) -> Errors:
    """1/(2M) sum of squares of the logarithms' difference less its mean (Eigen et al., NeurIPS 2014, lambda 1).

    Invariant to both scales, to neither shift; pixels whose true inverse depth is not above 0 have no logarithm and no say.
    """
    valid = valid & (truth > 0)
    prediction, truth = (torch.where(valid, v, 1.0).clamp(min=LEAST_INVERSE) for v in (prediction, truth))
    difference = prediction.log() - truth.log()
    usable = count(valid) >= LEAST_PIXELS
    residual = _known(difference - mean(difference, valid), valid & usable)
    return _errors(mean(residual.square(), valid) / 2, usable, residual)


def ordinal(prediction: Tensor, truth: Tensor, valid: Tensor, pairs: int = 5000) -> Errors:
    """Mean ranking loss of random pairs of each image's valid pixels (Chen et al., NeurIPS 2016), without a residual.

    log(1 + exp(far - near)) where the truth knows an order, (a - b)^2 where the two are EQUAL. Invariant to the truth's scale and
    shift and to the prediction's shift.
    """
    prediction, truth = _known(prediction, valid), _known(truth, valid)
    usable = count(valid) >= LEAST_PIXELS
    chances = torch.where(usable, valid, True).flatten(1).float()
    chosen = chances.multinomial(2 * pairs, replacement=True)
    first, second = chosen[:, :pairs], chosen[:, pairs:]

    def differences(values: Tensor) -> Tensor:
        return values.flatten(1).gather(1, first) - values.flatten(1).gather(1, second)

    closest = EQUAL * centre_and_spread(truth, valid)[1].flatten(1)
    nearer, order = differences(prediction), differences(truth)
    ranked = torch.where(order.abs() > closest, F.softplus(-torch.sign(order) * nearer), nearer.square())
    return _errors(ranked.mean(dim=1), usable, torch.zeros_like(prediction))


def nmg(prediction: Tensor, truth: Tensor, valid: Tensor) -> Errors:
    """Normalised multi-scale gradient, after Wang et al. (WSVD, 3DV 2019): gradient_matching() of s prediction - truth.

    s is the ratio of the two maps' own gradients, sum over levels of |dx d*| + |dy d*| over that of d. Invariant to the
    prediction's scale and to both shifts; it grows with the truth's scale.
    """
    prediction, truth = _known(prediction, valid), _known(truth, valid)
    own, true = gradient_matching(prediction, valid), gradient_matching(truth, valid)
    usable = (count(valid).flatten() >= LEAST_PIXELS) & (own >= LEAST_SCALE) & (true >= LEAST_SCALE)
    scale, shown = (v[:, None, None, None] for v in (true / torch.where(usable, own, 1.0), usable))
    residual = _known(scale * prediction - truth, valid & shown)
    return _errors(gradient_matching(residual, valid), shown, residual)


LOSSES: dict[str, RelativeLoss] = {
    "ssitrim": RelativeLoss(ssitrim, options=("trimmed",)),
    "ssimae": RelativeLoss(ssimae),
    "ssimse": RelativeLoss(ssimse, unit_truth=True),
    "simse": RelativeLoss(simse, unit_truth=True),
    "silog": RelativeLoss(silog),
    "ordinal": RelativeLoss(ordinal, options=("pairs",)),
    "nmg": RelativeLoss(nmg, unit_truth=True),
}


def _known(values: Tensor, valid: Tensor) -> Tensor:
    """The values where they are valid, else 0 without a gradient, whatever stands there."""
    return torch.where(valid, values, 0.0)


def _errors(values: Tensor, usable: Tensor, residual: Tensor) -> Errors:
    counted = usable.flatten()
    return Errors(torch.where(counted, values.flatten(), 0.0), counted, residual)


def _differences(values: Tensor, valid: Tensor, scales: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Differences of neighbours along x and y at every level, and whether both are valid."""
    for stride in (2**level for level in range(scales)):
        v, known = values[..., ::stride, ::stride], valid[..., ::stride, ::stride]
        yield v[..., 1:] - v[..., :-1], known[..., 1:] & known[..., :-1]
        yield v[..., 1:, :] - v[..., :-1, :], known[..., 1:, :] & known[..., :-1, :]

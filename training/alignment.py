"""Bringing together maps that are true up to a scale and a shift per image: means, medians and fits over the valid pixels.

All maps are (B, 1, H, W) with a bool `valid` of the same shape; figures of a sample are (B, 1, 1, 1). Every function keeps to the
valid pixels, is differentiable, and returns finite values for samples that have none; where it can fail, it says for which.
"""

from __future__ import annotations

import torch
from torch import Tensor

PIXELS = (1, 2, 3)
LEAST_PIXELS = 2  # that scale and shift can be told from
LEAST_SCALE = 1e-6


def count(valid: Tensor) -> Tensor:
    """Number of valid pixels."""
    return valid.sum(dim=PIXELS, keepdim=True)


def mean(values: Tensor, valid: Tensor) -> Tensor:
    """Mean over the valid pixels; 0 where there are none."""
    return torch.where(valid, values, 0.0).sum(dim=PIXELS, keepdim=True) / count(valid).clamp(min=1)


def ascending(values: Tensor, valid: Tensor) -> Tensor:
    """The values of each sample in ascending order (B, H W), what is not valid after them all."""
    return torch.where(valid, values, torch.finfo(values.dtype).max).flatten(1).sort(dim=1).values


def median(values: Tensor, valid: Tensor) -> Tensor:
    """Median over the valid pixels, of an even number the mean of the two in the middle; 0 where there are none."""
    number = count(valid).flatten(1)
    middle = torch.cat([(number - 1) // 2, number // 2], dim=1).clamp(min=0)
    found = ascending(values, valid).gather(1, middle).mean(dim=1)[:, None, None, None]
    return torch.where(count(valid) > 0, found, 0.0)


def centre_and_spread(values: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Median, mean absolute deviation from it, and whether that tells a scale (MiDaS, equation 5)."""
    centre = median(values, valid)
    spread = mean((values - centre).abs(), valid)
    return centre, spread, _tells(spread, values, valid)


def least_squares(source: Tensor, target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scale s and shift t that minimise the sum of (s source + t - target)^2 (MiDaS, equation 4), and whether they can be used.

    They cannot where the source is flat (a determinant of 0), or s is next to 0. s is below 0 where the source is upside down.
    """
    source_mean, target_mean = mean(source, valid), mean(target, valid)
    deviation = source - source_mean
    variance = mean(deviation.square(), valid)
    known = _tells(variance.sqrt(), source, valid)
    scale = mean(deviation * (target - target_mean), valid) / torch.where(known, variance, 1.0)
    return scale, target_mean - scale * source_mean, known & (scale.abs() >= LEAST_SCALE)


def to_unit(values: Tensor, valid: Tensor) -> Tensor:
    """Scaled and shifted such that the valid pixels of each sample reach from 0 to 1; where they are all equal, 0."""
    low = torch.where(valid, values, torch.inf).amin(dim=PIXELS, keepdim=True)
    high = torch.where(valid, values, -torch.inf).amax(dim=PIXELS, keepdim=True)
    span = torch.where(high > low, high - low, 1.0)
    return torch.where(valid, (values - low) / span, 0.0)


def correlation(a: Tensor, b: Tensor, valid: Tensor) -> Tensor:
    """Pearson's correlation (B,) over the valid pixels, which no positive scale and no shift changes; 0 where one is flat."""
    a, b = a - mean(a, valid), b - mean(b, valid)
    sizes = (mean(a.square(), valid) * mean(b.square(), valid)).sqrt()
    return (mean(a * b, valid) / torch.where(sizes > 0, sizes, 1.0)).flatten()


def _tells(scale: Tensor, values: Tensor, valid: Tensor) -> Tensor:
    """Whether a spread of the values is more than the rounding of flat ones, over enough pixels."""
    largest = torch.where(valid, values, 0.0).detach().abs().amax(dim=PIXELS, keepdim=True)
    rounding = 10 * torch.finfo(values.dtype).eps * largest
    return (count(valid) >= LEAST_PIXELS) & (scale >= LEAST_SCALE) & (scale > rounding)

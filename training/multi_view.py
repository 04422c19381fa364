"""Which depths two views agree on: the multi-view check of MonoDiffusion, as pure functions.

A pixel is moved into the source with the target's depth and back with the source's own depth there; where it ends up and how
deep tells whether both depths show the same static surface.
"""

from __future__ import annotations

import torch
from torch import Tensor

from training.geometry import backproject, invert_pose, pixel_grid, project, sample, transform

STRICT = (1.0, 0.01)  # [px], relative: the thresholds of classical multi-view stereo
FACTOR = 4.0  # of an image's mean error, up to which a pixel is kept (MonoDiffusion's code)
LEAST = (0.1, 1e-3)  # [px], relative: errors that are kept however small the mean is, as where nothing is wrong


def round_trip_errors(
    target_depth: Tensor, source_depth: Tensor, target_K: Tensor, source_K: Tensor, source_T_target: Tensor
) -> tuple[Tensor, Tensor]:
    """Distance [px] between each pixel and where it ends up, and |depth there - depth| / depth, each (B, 1, H, W).

    Depths (B, 1, H, W) [m], K (B, 3, 3) [px]. Pixels that leave the source's image, which ends half a pixel beyond its outermost
    centres, or get behind a camera, have errors of infinity.
    """
    height, width = target_depth.shape[-2:]
    pixels, away = project(transform(backproject(target_depth, target_K), source_T_target), source_K)
    size = pixels.new_tensor([width, height])[:, None, None]
    inside = ((pixels >= -0.5) & (pixels <= size - 0.5)).all(dim=1, keepdim=True)
    seen = 1 / sample(1 / source_depth, pixels)  # on a plane inverse depth is linear in the pixel, and depth is not
    homogeneous = torch.cat([pixels, torch.ones_like(seen)], dim=1).flatten(2)
    points = (torch.linalg.inv(source_K) @ homogeneous).unflatten(2, (height, width)) * seen
    back, depth = project(transform(points, invert_pose(source_T_target)), target_K)
    moved = (back - pixel_grid(height, width, back.device)[:2]).norm(dim=1, keepdim=True)
    change = (depth - target_depth).abs() / target_depth
    unseen = ~inside | (away <= 0) | (depth <= 0)
    return moved.masked_fill(unseen, torch.inf), change.masked_fill(unseen, torch.inf)


def consistent(moved: Tensor, change: Tensor, rule: str) -> Tensor:
    """The pixels (B, 1, H, W; bool) of round_trip_errors() that are kept.

    both: neither error above FACTOR times its mean over the image; depth: that of depth alone (a helper in MonoDiffusion's
    code, which does not call it); strict: below STRICT.
    """
    if rule == "strict":
        return (moved < STRICT[0]) & (change < STRICT[1])
    kept = change <= _limit(change, LEAST[1])
    return kept if rule == "depth" else kept & (moved <= _limit(moved, LEAST[0]))


def _limit(error: Tensor, least: float) -> Tensor:
    """Per image, over the pixels that the source sees."""
    seen = error.isfinite()
    mean = torch.where(seen, error, 0.0).sum(dim=(1, 2, 3)) / seen.sum(dim=(1, 2, 3)).clamp(min=1)
    return (FACTOR * mean).clamp(min=least)[:, None, None, None]

"""Loss terms on feature maps (FeatDepth, Shu et al., ECCV 2020): pure functions of tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from training.geometry import warp
from training.losses import absolute_error, edge_aware_variation, photometric_error


def reconstruction(image: Tensor, maps: Sequence[Tensor], photometric: bool = False, charbonnier: bool = False) -> Tensor:
    """L_rec: error of an image (B, 3, H, W) that an auto-encoder gives back, mean over its maps (B, 3, H / s, W / s).

    L1 as in the paper, or as in its code 0.85 SSIM + 0.15 `charbonnier`. Smaller maps are compared at their own size.
    """
    compare = photometric_error if photometric else absolute_error
    return torch.stack([compare(shrink(image, m), m, charbonnier).mean() for m in maps]).mean()


def discriminative(features: Sequence[Tensor], image: Tensor) -> Tensor:
    """L_dis = -exp(-|dI|) |d phi|: asks for slopes in the features (B, C, h, w), most of all where the image is flat."""
    return -_mean_over_levels(features, image, lambda f, i: edge_aware_variation(f, i, order=1))


def convergent(features: Sequence[Tensor], image: Tensor, edge_weighted: bool = False) -> Tensor:
    """L_cvt = |d2 phi|: asks for slopes that stay the same, so that a far match still pulls towards the true one.

    With `edge_weighted` (the code, not the paper) it is weighted with exp(-|d2 I|).
    """
    return _mean_over_levels(features, image, lambda f, i: edge_aware_variation(f, i, 2, edge_factor=float(edge_weighted)))


def feature_metric_error(
    target: Tensor,
    source: Tensor,
    depth: Tensor,
    target_K: Tensor,
    source_K: Tensor,
    source_T_target: Tensor,
    charbonnier: bool = False,
) -> Tensor:
    """L_fm = |phi_t(p) - phi_s(p')|, mean over channels: (B, 1, h, w), of features (B, C, h, w) of the two views.

    Depth (B, 1, H, W) [m] and K (B, 3, 3) [px] are those of the image (geometry.warp).
    """
    return absolute_error(warp(source, depth, target_K, source_K, source_T_target), target, charbonnier)


def shrink(image: Tensor, like: Tensor) -> Tensor:
    """The image averaged over areas to the size of `like`."""
    return F.interpolate(image, size=like.shape[-2:], mode="area")


def _mean_over_levels(features: Sequence[Tensor], image: Tensor, term: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Level i counts 1 / 2^i, and the sum is divided by their number (the code; the paper does not say)."""
    terms = [term(f, shrink(image, f)) / 2**level for level, f in enumerate(features)]
    return torch.stack(terms).sum() / len(terms)

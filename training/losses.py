"""Loss terms: pure functions of tensors. Each returns a map or a scalar and edits nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from training.geometry import height_above_ground

SSIM_WEIGHT = 0.85  # Monodepth2, equation 2
CHARBONNIER = 1e-6  # square of the error below which Charbonnier's is smooth (FeatDepth's code)
ORDERS = {"first": (1,), "second": (2,), "both": (1, 2)}  # of smoothness
TIE_BREAK = 1e-5  # noise on the identity error, so that equal errors do not always choose the same candidate


def ssim_error(a: Tensor, b: Tensor) -> Tensor:
    """Structural dissimilarity clamp((1 - SSIM) / 2, 0, 1) per pixel and channel, 3x3 windows; (B, C, H, W)."""
    c1, c2 = 0.01**2, 0.03**2
    a, b = F.pad(a, (1, 1, 1, 1), mode="reflect"), F.pad(b, (1, 1, 1, 1), mode="reflect")
    mean_a, mean_b = _box_mean(a), _box_mean(b)
    means, squares = mean_a * mean_b, mean_a * mean_a + mean_b * mean_b
    variances = _box_mean(a * a + b * b) - squares
    covariance = _box_mean(a * b) - means
    ssim = ((2 * means + c1) * (2 * covariance + c2)) / ((squares + c1) * (variances + c2))
    return ((1 - ssim) / 2).clamp(0, 1)


def _box_mean(x: Tensor) -> Tensor:
    """3x3 mean without padding, as two one-dimensional sums: several times faster on a CPU than avg_pool2d."""
    rows = x[..., :-2, :] + x[..., 1:-1, :] + x[..., 2:, :]
    return (rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]) / 9


def absolute_error(a: Tensor, b: Tensor, charbonnier: bool = False) -> Tensor:
    """|a - b|, mean over channels: (B, 1, H, W); with `charbonnier` sqrt((a - b)^2 + 1e-6), which is smooth at 0."""
    difference = a - b
    error = (difference.square() + CHARBONNIER).sqrt() if charbonnier else difference.abs()
    return error.mean(dim=1, keepdim=True)


def photometric_error(a: Tensor, b: Tensor, charbonnier: bool = False) -> Tensor:
    """0.85 SSIM error + 0.15 absolute error, mean over channels: (B, 1, H, W) (Monodepth2, equation 2)."""
    ssim = ssim_error(a, b).mean(dim=1, keepdim=True)
    return SSIM_WEIGHT * ssim + (1 - SSIM_WEIGHT) * absolute_error(a, b, charbonnier)


def min_reprojection(errors: Sequence[Tensor]) -> Tensor:
    """Per-pixel minimum (B, 1, H, W) over the views' errors, of which an occluded one is the larger (Monodepth2, section 3.1)."""
    return torch.cat(list(errors), dim=1).amin(dim=1, keepdim=True)


def auto_mask(reprojection: Tensor, identity_errors: Sequence[Tensor]) -> Tensor:
    """Minimum with the errors of the unwarped views (Monodepth2, section 3.2).

    Where one of those fits better, the pixel adds a constant to the mean over ALL pixels, and no gradient.
    """
    if not identity_errors:
        return reprojection
    return min_reprojection([reprojection, *(e + TIE_BREAK * torch.randn_like(e) for e in identity_errors)])


def smoothness(
    disparity: Tensor, image: Tensor, order: str = "first", edge_factor: float = 1.0, normalised: bool = True
) -> Tensor:
    """Edge-aware smoothness of the disparity (B, 1, H, W), divided by its mean if `normalised`, given its image (B, 3, H, W).

    Its first differences (Monodepth2, equation 3), its second ones, which leave slanted planes alone, or the sum of both
    (FeatDepth): one of ORDERS.
    """
    if normalised:
        disparity = disparity / (disparity.mean(dim=(2, 3), keepdim=True) + 1e-7)
    return torch.stack([edge_aware_variation(disparity, image, o, edge_factor) for o in ORDERS[order]]).sum()


def edge_aware_variation(values: Tensor, image: Tensor, order: int, edge_factor: float = 1.0) -> Tensor:
    """exp(-edge_factor |d image|) |d values| of maps (B, C, H, W) of one size, with the image's channels averaged.

    d are the forward differences of that order: x and y, or xx, xy, yx and yy; the means over pixels and channels are summed.
    A map too small for a difference has none.
    """
    total = values.new_zeros(())
    for change, edge in zip(_differences(values, order), _differences(image, order), strict=True):
        weighted = change.abs() * torch.exp(-edge_factor * edge.abs().mean(dim=1, keepdim=True))
        total = total + weighted.sum() / max(1, weighted.numel())
    return total


def _differences(x: Tensor, order: int) -> list[Tensor]:
    maps = [x]
    for _ in range(order):
        maps = [m.diff(dim=axis) for m in maps for axis in (3, 2)]
    return maps


def velocity(translation: Tensor, distance: Tensor) -> Tensor:
    """| |t| - distance | [m]: ties a learned translation (B, 3) to the distance travelled (B,) (PackNet, equation 6)."""
    return (translation.norm(dim=1) - distance).abs().mean()


def camera_height(depth: Tensor, K: Tensor, height: float) -> Tensor:
    """|log| of the factor that brings the camera to `height` [m] above the ground that depth (B, 1, H, W) [m] shows.

    Its gradient scales the whole depth and bends none of it. Mean over the images that show ground. The ground and its
    distance are those of DNet's dense geometric constraint (Xue et al., IROS 2020), which rescales a finished prediction.
    """
    found = height_above_ground(depth.detach(), K)
    shows_ground = torch.isfinite(found)
    target = depth.detach() * torch.where(shows_ground, height / found, 1.0)[:, None, None, None]
    return masked_mean((torch.log(depth) - torch.log(target)).abs().mean(dim=(1, 2, 3)), shows_ground)


def laplace_nll(error: Tensor, log_scale: Tensor) -> Tensor:
    """Negative log-likelihood map of an absolute error under a Laplace distribution of scale exp(log_scale)."""
    return error * torch.exp(-log_scale) + log_scale + math.log(2)


def masked_mean(values: Tensor, valid: Tensor) -> Tensor:
    """Mean of values over valid (bool, same shape); 0 where nothing is valid."""
    return torch.where(valid, values, 0.0).sum() / valid.sum().clamp(min=1)

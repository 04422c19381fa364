"""Pinhole geometry in torch. Pixel (0, 0) is the centre of the top-left pixel; depth is along +z [m]."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def disparity_to_depth(disparity: Tensor, min_depth: float, max_depth: float) -> Tensor:
    """Depth [m] of the network's sigmoid output in (0, 1): 1/depth is linear from 1/max_depth to 1/min_depth (Monodepth2)."""
    return 1.0 / (1.0 / max_depth + (1.0 / min_depth - 1.0 / max_depth) * disparity)


def pixel_grid(height: int, width: int, device: torch.device) -> Tensor:
    """Homogeneous pixel coordinates (3, H, W): u, v, 1."""
    v, u = torch.meshgrid(
        torch.arange(height, device=device, dtype=torch.float32),
        torch.arange(width, device=device, dtype=torch.float32),
        indexing="ij",
    )
    return torch.stack([u, v, torch.ones_like(u)])


def backproject(depth: Tensor, K: Tensor) -> Tensor:
    """Points (B, 3, H, W) [m] in the camera's frame of depth (B, 1, H, W) [m]."""
    batch, _, height, width = depth.shape
    rays = torch.linalg.inv(K) @ pixel_grid(height, width, depth.device).reshape(3, -1)
    return rays.reshape(batch, 3, height, width) * depth


def project(points: Tensor, K: Tensor) -> tuple[Tensor, Tensor]:
    """Pixel coordinates (B, 2, H, W) and depth (B, 1, H, W) [m] of points (B, 3, H, W) [m]."""
    depth = points[:, 2:3]
    pixels = torch.einsum("bij,bjhw->bihw", K[:, :2], points / depth.clamp(min=1e-3))
    return pixels, depth


def transform(points: Tensor, b_T_a: Tensor) -> Tensor:
    """Move points (B, 3, H, W) from frame a to frame b by (B, 4, 4)."""
    return torch.einsum("bij,bjhw->bihw", b_T_a[:, :3, :3], points) + b_T_a[:, :3, 3, None, None]


def sample(image: Tensor, pixels: Tensor) -> Tensor:
    """Bilinear values (B, C, h, w) of image (B, C, H, W) at pixels (B, 2, h, w); outside it, those of its nearest border."""
    height, width = image.shape[-2:]
    size = torch.tensor([width - 1, height - 1], device=image.device, dtype=image.dtype)[None, :, None, None]
    grid = (2.0 * pixels / size - 1.0).permute(0, 2, 3, 1)
    # align_corners=True is the convention in which pixel centres are integers.
    return F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=True)


def warp(source: Tensor, depth: Tensor, target_K: Tensor, source_K: Tensor, source_T_target: Tensor) -> Tensor:
    """Source image (B, C, H, W) as the target sees it, given the target's depth (B, 1, H, W) [m].

    What the source does not see shows its border; the minimum over the views (losses.min_reprojection) takes another view there.
    """
    points = transform(backproject(depth, target_K), source_T_target)
    pixels, _ = project(points, source_K)
    return sample(source, pixels)


def pose_matrix(axis_angle: Tensor, translation: Tensor) -> Tensor:
    """Rigid transforms (B, 4, 4) of rotation vectors (B, 3) [rad] and translations (B, 3), by the exponential map."""
    x, y, z = axis_angle.unbind(-1)
    zero = torch.zeros_like(x)
    skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).reshape(-1, 3, 3)
    rotation = torch.linalg.matrix_exp(skew)
    top = torch.cat([rotation, translation[:, :, None]], dim=2)
    bottom = torch.tensor([0.0, 0.0, 0.0, 1.0], device=top.device, dtype=top.dtype).expand(len(top), 1, 4)
    return torch.cat([top, bottom], dim=1)


def invert_pose(b_T_a: Tensor) -> Tensor:
    """a_T_b of rigid transforms (B, 4, 4)."""
    rotation = b_T_a[:, :3, :3].transpose(1, 2)
    translation = -rotation @ b_T_a[:, :3, 3:]
    return torch.cat([torch.cat([rotation, translation], dim=2), b_T_a[:, 3:]], dim=1)

"""Pinhole geometry in torch. Pixel (0, 0) is the centre of the top-left pixel; depth is along +z [m]."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

GROUND_SLOPE = math.cos(math.radians(5.0))  # least cosine between a ground pixel's normal and the camera's vertical axis
LEAST_GROUND = 0.01  # share of the image below which no ground is seen


def disparity_to_depth(disparity: Tensor, min_depth: float, max_depth: float) -> Tensor:
    """Depth [m] of the network's sigmoid output in (0, 1): 1/depth is linear from 1/max_depth to 1/min_depth (Monodepth2)."""
    return 1.0 / (1.0 / max_depth + (1.0 / min_depth - 1.0 / max_depth) * disparity)


def depth_to_disparity(depth: Tensor, min_depth: float, max_depth: float) -> Tensor:
    """The inverse of disparity_to_depth(); outside (0, 1) where the depth is out of the range."""
    return (1.0 / depth - 1.0 / max_depth) / (1.0 / min_depth - 1.0 / max_depth)


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
    rays = torch.linalg.inv(K) @ pixel_grid(height, width, depth.device).to(K.dtype).reshape(3, -1)
    return rays.reshape(batch, 3, height, width) * depth


def project(points: Tensor, K: Tensor) -> tuple[Tensor, Tensor]:
    """Pixel coordinates (B, 2, H, W) and depth (B, 1, H, W) [m] of points (B, 3, H, W) [m]."""
    depth = points[:, 2:3]
    pixels = torch.einsum("bij,bjhw->bihw", K[:, :2], points / depth.clamp(min=1e-3))
    return pixels, depth


def transform(points: Tensor, b_T_a: Tensor) -> Tensor:
    """Move points (B, 3, H, W) from frame a to frame b by (B, 4, 4)."""
    return torch.einsum("bij,bjhw->bihw", b_T_a[:, :3, :3], points) + b_T_a[:, :3, 3, None, None]


def surface_normals(points: Tensor) -> Tensor:
    """Unit normals (B, 3, H - 2, W - 2) of points (B, 3, H, W), each from four pairs of opposite corners of its neighbourhood."""

    def neighbour(row: int, column: int) -> Tensor:
        height, width = points.shape[-2:]
        shifted = points[..., 1 + row : height - 1 + row, 1 + column : width - 1 + column]
        return shifted - points[..., 1:-1, 1:-1]

    # Each pair is a quarter turn apart, in the same sense: right and down give z, the direction of sight.
    pairs = (((0, -1), (-1, 0)), ((0, 1), (1, 0)), ((-1, -1), (-1, 1)), ((1, 1), (1, -1)))
    normals = [F.normalize(torch.linalg.cross(neighbour(*a), neighbour(*b), dim=1), dim=1) for a, b in pairs]
    return F.normalize(torch.stack(normals).sum(dim=0), dim=1)


def height_above_ground(depth: Tensor, K: Tensor) -> Tensor:
    """Distance (B,) [m] of the camera from the ground that depth (B, 1, H, W) [m] shows; NaN where it shows hardly any.

    Ground is what lies below the camera with a normal within 5 degrees of its vertical axis; the distance is the median over
    those pixels (the dense geometric constraint of DNet, Xue et al., IROS 2020).
    """
    points = backproject(depth, K)
    normals = surface_normals(points)
    points = points[..., 1:-1, 1:-1]
    ground = (normals[:, 1].abs() > GROUND_SLOPE) & (points[:, 1] > 0)
    distance = (points * normals).sum(dim=1).abs().masked_fill(~ground, math.nan).flatten(1)
    enough = ground.flatten(1).float().mean(dim=1) >= LEAST_GROUND
    return distance.nanmedian(dim=1).values.masked_fill(~enough, math.nan)


def sample(image: Tensor, pixels: Tensor) -> Tensor:
    """Bilinear values (B, C, h, w) of image (B, C, H, W) at pixels (B, 2, h, w); outside it, those of its nearest border."""
    height, width = image.shape[-2:]
    size = torch.tensor([width - 1, height - 1], device=image.device, dtype=image.dtype)[None, :, None, None]
    grid = (2.0 * pixels / size - 1.0).permute(0, 2, 3, 1)
    # align_corners=True is the convention in which pixel centres are integers.
    return F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=True)


def warp(source: Tensor, depth: Tensor, target_K: Tensor, source_K: Tensor, source_T_target: Tensor) -> Tensor:
    """Source image or features (B, C, h, w) as the target sees them, given the target's depth (B, 1, H, W) [m].

    Depth and K (B, 3, 3) [px] are those of the image, `stride` = W / w times as large as features. A convolution of an odd size
    with stride 2, padded evenly, puts feature (i, j) above pixel (i, j) * stride: there the depth is taken, and K is divided by
    the stride. What the source does not see shows its border; the minimum over the views (losses.min_reprojection) takes another
    view there.
    """
    stride = depth.shape[-1] // source.shape[-1]
    scale = torch.tensor([stride, stride, 1], device=depth.device, dtype=depth.dtype)[:, None]
    points = transform(backproject(depth[..., ::stride, ::stride], target_K / scale), source_T_target)
    pixels, _ = project(points, source_K / scale)
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

"""The ray-caster of the procedural worlds in torch, the twin of street_cast: what every pixel's ray meets, and its depth.

Several views at once: the parts of all views stand in one tensor, and a ray is tested against the parts that can touch its
tile of the image. Everything is float64: far ground under a low camera needs it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.lib.recfunctions import structured_to_unstructured
from numpy.typing import NDArray
from torch import Tensor

from depth_ros.types import CameraModel
from training.data.street.cast import ELLIPSOID, GROUND, NEAR, PART, SKY

TILE = 16  # [px], side of the tiles
AT_ONCE = 8  # parts per tile and pass


class Part(NamedTuple):
    """The fields of street_cast.PART, each a tensor of one shape."""

    x: Tensor
    z: Tensor
    base: Tensor
    cos: Tensor
    sin: Tensor
    half_x: Tensor
    half_z: Tensor
    top_x: Tensor
    top_z: Tensor
    height: Tensor
    r: Tensor
    g: Tensor
    b: Tensor
    shape: Tensor
    material: Tensor
    seed: Tensor
    mover: Tensor
    along: Tensor


@dataclass(frozen=True)
class Views:
    """N views of one world: the camera, its poses, and the parts that each of them can see."""

    camera: CameraModel
    poses: Tensor  # (N, 4, 4) world_T_camera
    parts: Tensor  # (P, F) of all views, the fields of PART
    owner: Tensor  # (P,) the view that each part belongs to

    def at(self, index: Tensor) -> Part:
        """Return the parts of these numbers, as tensors of the index's shape."""
        return Part(*self.parts[index].unbind(-1))

    def rays(self, view: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the world directions dx, dh (up), dz, of unit z in the camera, through pixels u, v of these views."""
        a, b = (u.double() - self.camera.cx) / self.camera.fx, (v.double() - self.camera.cy) / self.camera.fy
        R = self.poses[view, :3, :3]
        dx, dy, dz = (R[..., i, 0] * a + R[..., i, 1] * b + R[..., i, 2] for i in range(3))
        return dx, -dy, dz

    def resized(self, scale: int) -> Views:
        """Return the same views in `scale` times as many rows and columns."""
        return Views(
            self.camera.resized(scale * self.camera.width, scale * self.camera.height), self.poses, self.parts, self.owner
        )


def gather_views(camera: CameraModel, poses: Tensor, parts: list[NDArray[np.void]]) -> Views:
    """Return the views of these poses (N, 4, 4), each with its own array of street_cast.PART, on the poses' device."""
    assert PART.names == Part._fields
    rows = np.concatenate([structured_to_unstructured(array, np.float64) for array in parts])
    owner = np.repeat(np.arange(len(parts)), [len(array) for array in parts])
    return Views(camera, poses, torch.from_numpy(rows).to(poses.device), torch.from_numpy(owner).to(poses.device))


def to_part(dx: Tensor, dz: Tensor, part: Part) -> tuple[Tensor, Tensor]:
    """Turn horizontal world vectors into the part's own x and z."""
    return dx * part.cos - dz * part.sin, dx * part.sin + dz * part.cos


def intersect(ox: Tensor, oh: Tensor, oz: Tensor, dx: Tensor, dh: Tensor, dz: Tensor, part: Part) -> Tensor:
    """Return the ray parameter where a ray enters the part, in the part's axes, or inf (also from inside)."""
    kx, kz = (part.half_x - part.top_x) / part.height, (part.half_z - part.top_z) / part.height
    wall_x, wall_z = part.half_x - kx * oh, part.half_z - kz * oh
    near, far = torch.zeros_like(ox + dx), torch.full_like(ox + dx, torch.inf)
    for c, d in (
        (oh, -dh), (part.height - oh, dh), (wall_x - ox, dx + kx * dh), (wall_x + ox, kx * dh - dx),
        (wall_z - oz, dz + kz * dh), (wall_z + oz, kz * dh - dz),
    ):  # fmt: skip
        t = c / d
        near = torch.where(d < -1e-12, torch.maximum(near, t), near)
        far = torch.where(d > 1e-12, torch.minimum(far, t), far)
        far = torch.where((d.abs() <= 1e-12) & (c < 0.0), -1.0, far)
    frustum = torch.where((near > 0.0) & (near < far), near, torch.inf)

    half = 0.5 * part.height
    ox, oh, oz, dx, dh, dz = ox / part.half_x, (oh - half) / half, oz / part.half_z, dx / part.half_x, dh / half, dz / part.half_z
    a, b, c = dx * dx + dh * dh + dz * dz, ox * dx + oh * dh + oz * dz, ox * ox + oh * oh + oz * oz - 1.0
    t = (-b - (b * b - a * c).sqrt()) / a  # NaN where the ray misses
    return torch.where(part.shape == ELLIPSOID, torch.where(t > 0.0, t, torch.inf), frustum)


def image_boxes(views: Views) -> Tensor:
    """Return first and last column and row (P, 4) [px] that each part can touch; all of them where it passes the camera."""
    part = Part(*views.parts.unbind(-1))
    bx, bz = torch.maximum(part.half_x, part.top_x), torch.maximum(part.half_z, part.top_z)
    sign = torch.tensor([-1.0, 1.0], dtype=bx.dtype, device=bx.device)
    sx, sz, up = (grid.flatten() for grid in torch.meshgrid(sign, sign, 0.5 + 0.5 * sign, indexing="ij"))
    x, z = bx[:, None] * sx, bz[:, None] * sz
    world = torch.stack([
        part.x[:, None] + x * part.cos[:, None] + z * part.sin[:, None],
        -part.base[:, None] - part.height[:, None] * up,
        part.z[:, None] - x * part.sin[:, None] + z * part.cos[:, None],
    ], -1)  # fmt: skip
    pose = views.poses[views.owner]
    corner = torch.einsum("pki,pck->pci", pose[:, :3, :3], world - pose[:, None, :3, 3])
    depth, camera = corner[..., 2], views.camera
    u, v = (camera.fx * corner[..., 0] / depth + camera.cx), (camera.fy * corner[..., 1] / depth + camera.cy)
    box = torch.stack([u.amin(1), u.amax(1), v.amin(1), v.amax(1)], 1)
    everywhere = box.new_tensor([0.0, camera.width, 0.0, camera.height])
    box = torch.where((depth <= NEAR).any(1)[:, None], everywhere, box)
    return torch.where((depth <= NEAR).all(1)[:, None], -torch.inf, box)


def cast(views: Views) -> tuple[Tensor, Tensor]:
    """Return depth (N, H, W) [m] along +z, inf for the sky, and what was hit: a part's number, GROUND or SKY."""
    camera, device = views.camera, views.poses.device
    columns, rows = -(-camera.width // TILE), -(-camera.height // TILE)
    tile = torch.arange(len(views.poses) * rows * columns, device=device)
    view, left, top = tile // (rows * columns), tile % columns * TILE, tile // columns % rows * TILE
    pixel = torch.arange(TILE * TILE, device=device)
    u, v = left[:, None] + pixel % TILE, top[:, None] + pixel // TILE
    dx, dh, dz = views.rays(view[:, None], u, v)
    eye = views.poses[view, :3, 3]
    ground = dh < -1e-6
    depth = torch.where(ground, eye[:, 1:2] / dh, torch.inf)  # eye y is down, dh is up
    hit = torch.where(ground, GROUND, SKY)
    count, first, members = parts_of_tiles(views, view, left, top)
    for start in range(0, int(count.max()) if len(count) else 0, AT_ONCE):
        busy = torch.nonzero(count > start)[:, 0]
        k = start + torch.arange(AT_ONCE, device=device)
        number = members[(first[busy, None] + torch.minimum(k, count[busy, None] - 1))]  # the last one again and again
        part = Part(*(field[:, None] for field in views.at(number)))
        ox, oz = to_part(eye[busy, 0, None, None] - part.x, eye[busy, 2, None, None] - part.z, part)
        px, pz = to_part(dx[busy, :, None], dz[busy, :, None], part)
        t = intersect(ox, -eye[busy, 1, None, None] - part.base, oz, px, dh[busy, :, None], pz, part)
        t, nearest = torch.where(t > NEAR, t, torch.inf).min(2)
        closer = t < depth[busy]
        depth[busy] = torch.where(closer, t, depth[busy])
        hit[busy] = torch.where(closer, number.gather(1, nearest), hit[busy])

    def untile(values: Tensor) -> Tensor:
        grid = values.reshape(-1, rows, columns, TILE, TILE).transpose(2, 3).reshape(-1, rows * TILE, columns * TILE)
        return grid[:, : camera.height, : camera.width]

    return untile(depth), untile(hit)


def parts_of_tiles(views: Views, view: Tensor, left: Tensor, top: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the parts that can touch each tile (T,) as count (T,), first (T,) and one list of all members, in order."""
    u0, u1, v0, v1 = image_boxes(views).unbind(1)
    touches = (views.owner == view[:, None]) & (u1 >= left[:, None] - 1) & (u0 <= left[:, None] + TILE)
    touches &= (v1 >= top[:, None] - 1) & (v0 <= top[:, None] + TILE)
    count = touches.sum(1)
    return count, count.cumsum(0) - count, torch.nonzero(touches)[:, 1]

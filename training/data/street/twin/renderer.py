"""Procedural worlds on any torch device: the twin of Street.render, many views at once.

It casts the same parts as the compiled renderer and paints them with the same patterns, so that a GPU gives the pictures
that a CPU gives; only roundings differ. The worlds themselves are built on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from depth_ros.types import CameraModel
from training.data.street.cast import GROUND, SKY
from training.data.street.texture import BARE, PLAIN
from training.data.street.twin.cast import Views, cast, gather_views
from training.data.street.twin.shade import drops, expose, sky_radiance, surface_radiance
from training.data.street.world import Street, check_view

VIEWS_AT_ONCE = 8


class TorchRenderings(NamedTuple):
    """N views of a world with their exact truth."""

    images: Tensor  # (N, 3, H, W) float32 RGB in [0, 1]
    depth: Tensor  # (N, 1, H, W) float32 [m] along +z, +inf is sky
    moving: Tensor  # (N, 1, H, W) bool, on moving vehicles
    plain: Tensor  # (N, 1, H, W) bool, on walls, floors and grounds without texture


class TorchRenderer:
    """Renders worlds on one device. It needs float64 there."""

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)

    @torch.no_grad()
    def render(self, street: Street, camera: CameraModel, poses: Tensor, times: Sequence[float] | Tensor) -> TorchRenderings:
        """Return what the camera sees from poses (N, 4, 4) world_T_camera at times (N,) [s]. Raises InputError as Street does."""
        poses, times = poses.to("cpu", torch.float64), [float(t_s) for t_s in times]
        chunks = [
            self._render(street, camera, poses[start : start + VIEWS_AT_ONCE], times[start : start + VIEWS_AT_ONCE])
            for start in range(0, len(times), VIEWS_AT_ONCE)
        ]
        return TorchRenderings(*(torch.cat(tensors) for tensors in zip(*chunks, strict=True)))

    def _render(self, street: Street, camera: CameraModel, poses: Tensor, times: list[float]) -> TorchRenderings:
        matrices = list(poses.numpy())
        for matrix in matrices:
            check_view(camera, matrix)
        parts = [street.parts_at(t_s, matrix) for matrix, t_s in zip(matrices, times, strict=True)]
        views = gather_views(camera, poses.to(self.device), parts)
        depth, hit = cast(views)
        fields = views.at(hit.clamp(min=0))
        moving, plain = (hit > GROUND) & (fields.mover >= 0), (hit > GROUND) & (fields.material == PLAIN)
        if street.scene.road.kind == BARE:
            plain = plain | (hit == GROUND)
        lamps = [street.light_at(matrix).lamps for matrix in matrices]
        frames = [street.frame(matrix, t_s) for matrix, t_s in zip(matrices, times, strict=True)]
        images = self._picture(street, views.resized(2), lamps, torch.tensor(frames, device=self.device))
        return TorchRenderings(images.float(), depth[:, None].float(), moving[:, None], plain[:, None])

    def _picture(self, street: Street, views: Views, lamps: list[np.ndarray], frames: Tensor) -> Tensor:
        depth, hit = cast(views)
        light, camera = street.scene.light, views.camera
        padded = np.zeros((len(lamps), max(len(rows) for rows in lamps), 4))  # a lamp without power gives no light
        for view, rows in enumerate(lamps):
            padded[view, : len(rows)] = rows
        view, v, u = torch.meshgrid(*(torch.arange(n, device=self.device) for n in depth.shape), indexing="ij")
        ray = torch.stack(views.rays(view, u, v), -1)
        norm = ray.norm(dim=-1, keepdim=True)
        radiance = torch.empty_like(ray)
        sky = hit == SKY
        radiance[sky] = sky_radiance((ray / norm)[sky], light)
        seen = ~sky
        eye = views.poses[view[seen], :3, 3] * views.poses.new_tensor([1.0, -1.0, 1.0])
        t, length = depth[seen], norm[seen][:, 0]
        colour = surface_radiance(
            views, view[seen], eye + t[:, None] * ray[seen], ray[seen] / length[:, None], t * length / camera.fx, hit[seen],
            light, street.scene.road, torch.from_numpy(padded).to(self.device),
        )  # fmt: skip
        clear = torch.exp(-light.haze * t * length)[:, None]
        radiance[seen] = torch.lerp(radiance.new_tensor(light.horizon).expand_as(colour), colour, clear)
        if light.wet > 0.0 or light.snow > 0.0:
            share = drops(camera.height, camera.width, light, frames)[..., None]
            radiance = radiance + share * (0.8 * light.horizon[1] - radiance)
        return expose(radiance, light, street.noise, frames)

"""Augmentation of whole batches: flips and zooms change the scene consistently, colours change the network's input only."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from training.batch import Batch
from training.config import DataConfig

GREY = (0.299, 0.587, 0.114)


def augment(batch: Batch, config: DataConfig, rank: int = 0, world_size: int = 1) -> Batch:
    """Flip and zoom all images of the batch alike (K, poses and depth follow); jitter the colours of each sample's inputs.

    `batch` is the part that process `rank` has of `world_size` equal ones: all draw alike, as one process would for all.
    """
    if config.flip and torch.rand(()) < 0.5:
        batch = flip(batch)
    if config.max_zoom > 1:
        zoom = 1 + float(torch.rand(())) * (config.max_zoom - 1)
        batch = crop_and_resize(batch, zoom, float(torch.rand(())), float(torch.rand(())))
    return jitter(batch, config.colour_jitter, rank, world_size) if config.colour_jitter > 0 else batch


def flip(batch: Batch) -> Batch:
    """Mirror left and right: u' = W - 1 - u, and poses between mirrored frames."""
    mirror = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0], device=batch.K.device))
    K = batch.K.clone()
    K[:, 0, 2] = batch.image.shape[-1] - 1 - K[:, 0, 2]
    views = tuple(
        replace(
            v,
            image=v.image.flip(3),
            input=v.input.flip(3),
            K=K,
            source_T_target=None if v.source_T_target is None else mirror @ v.source_T_target @ mirror,
        )
        for v in batch.views
    )
    truth = {name: None if t is None else t.flip(3) for name, t in _truth(batch).items()}
    return replace(batch, image=batch.image.flip(3), input=batch.input.flip(3), K=K, views=views, **truth)


def _truth(batch: Batch) -> dict[str, Tensor | None]:
    """The maps of a batch that are seen through its camera, by their names."""
    return {"depth": batch.depth, "inverse": batch.inverse, "valid": batch.valid}


def crop_and_resize(batch: Batch, zoom: float, left: float, top: float) -> Batch:
    """Cut 1/zoom of width and height at the fractions `left`, `top` of the free margin, and resize back.

    The inputs become the images: colours are jittered afterwards.
    """
    height, width = batch.image.shape[-2:]
    h, w = round(height / zoom), round(width / zoom)
    y, x = round(top * (height - h)), round(left * (width - w))

    def cut(image: Tensor) -> Tensor:
        return F.interpolate(image[..., y : y + h, x : x + w], size=(height, width), mode="bilinear", align_corners=False)

    def nearest(image: Tensor) -> Tensor:
        return F.interpolate(image[..., y : y + h, x : x + w].float(), size=(height, width), mode="nearest-exact")

    scale = torch.tensor([width / w, height / h], device=batch.K.device)
    K = batch.K.clone()
    K[:, [0, 1], [0, 1]] *= scale
    K[:, :2, 2] = (batch.K[:, :2, 2] - torch.tensor([x, y], device=K.device) + 0.5) * scale - 0.5
    image, *others = (cut(item.image) for item in (batch, *batch.views))
    views = tuple(replace(v, image=other, input=other, K=K) for v, other in zip(batch.views, others, strict=True))
    truth = {name: None if t is None else nearest(t).to(t.dtype) for name, t in _truth(batch).items()}
    return replace(batch, image=image, input=image, K=K, views=views, **truth)


def jitter(batch: Batch, strength: float, rank: int = 0, world_size: int = 1) -> Batch:
    """Change brightness, contrast, saturation and gamma within 1 +- strength, the same for all images of a sample."""
    count, device = len(batch.image), batch.image.device
    draws = torch.rand(4, count * world_size, 1, 1, 1, device=device)[:, rank * count : (rank + 1) * count]
    brightness, contrast, saturation, gamma = 1 + strength * (2 * draws - 1)
    weights = torch.tensor(GREY, device=device)[:, None, None]
    mean = (batch.input * weights).sum(dim=1, keepdim=True).mean(dim=(2, 3), keepdim=True)

    def change(image: Tensor) -> Tensor:
        grey = (image * weights).sum(dim=1, keepdim=True)
        image = grey + saturation * (image - grey)
        image = (mean + contrast * (image - mean)) * brightness
        return image.clamp(1e-4, 1) ** gamma

    views = tuple(replace(v, input=change(v.input)) for v in batch.views)
    return replace(batch, input=change(batch.input), views=views)

"""What a method is trained on: a target image, views of the same scene, and the truth where there is any."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

T = TypeVar("T", "View", "Batch")


@dataclass(frozen=True)
class View:
    """Another image of the target's scene: a neighbouring frame or the other camera of a stereo pair."""

    image: Tensor  # (B, 3, H, W) RGB in [0, 1]; what the loss compares
    input: Tensor  # (B, 3, H, W) the same after colour augmentation; what a network sees
    K: Tensor  # (B, 3, 3) [px]
    source_T_target: Tensor | None  # (B, 4, 4) [m], or None where the pose has to be learned
    speed: Tensor | None = None  # (B,) [m] travelled between the two images, for a metric scale without poses
    order: int = 0  # -1: taken before the target, 1: after it, 0: at the same time (the other camera of a stereo pair)


@dataclass(frozen=True)
class Batch:
    """A batch of targets with their views."""

    image: Tensor  # (B, 3, H, W) RGB in [0, 1]
    input: Tensor  # (B, 3, H, W) after colour augmentation
    K: Tensor  # (B, 3, 3) [px]
    views: tuple[View, ...] = ()
    depth: Tensor | None = None  # (B, 1, H, W) [m]
    inverse: Tensor | None = None  # (B, 1, H, W) inverse depth, true up to a positive factor and a shift per sample
    valid: Tensor | None = None  # (B, 1, H, W) bool, where depth, or inverse, may be trusted
    dataset: Tensor | None = None  # (B,) int64, which of several mixed datasets each sample is from


@dataclass(frozen=True)
class SampleView:
    """One view of a sample, as a dataset returns it."""

    image: NDArray[np.uint8]  # (H, W, 3) RGB
    source_T_target: NDArray[np.float64] | None = None  # (4, 4) [m]
    speed: float | None = None  # [m]
    order: int = 0  # see View


@dataclass(frozen=True)
class Sample:
    """One item of a dataset. All images of a sample share K."""

    image: NDArray[np.uint8]  # (H, W, 3) RGB
    K: NDArray[np.float64]  # (3, 3) [px]
    views: tuple[SampleView, ...] = ()
    depth: NDArray[np.float32] | None = None  # (H, W) [m], not finite or 0 where unknown
    inverse: NDArray[np.float32] | None = None  # (H, W) see Batch, not finite where unknown
    dataset: int | None = None  # which of several mixed ones; in place of depth, such a sample has inverse


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples that all have the same views and kind of truth. Raises ValueError where they differ."""
    first = samples[0]
    order = [v.order for v in first.views]
    truths = (first.depth is None, first.inverse is None)
    if any([v.order for v in s.views] != order or (s.depth is None, s.inverse is None) != truths for s in samples):
        raise ValueError("samples of one batch differ in their views or in having truth; mix whole batches, not samples")
    image = _images([s.image for s in samples])
    K = torch.from_numpy(np.stack([s.K for s in samples])).float()
    views = tuple(_collate_view([s.views[i] for s in samples], K) for i in range(len(first.views)))
    if first.inverse is not None:
        return _with_inverse(Batch(image, image, K, views), samples)
    if first.depth is None:
        return Batch(image, image, K, views)
    depth = torch.from_numpy(np.stack([s.depth for s in samples]))[:, None].float()
    valid = torch.isfinite(depth) & (depth > 0)
    return Batch(image, image, K, views, depth=torch.where(valid, depth, 1.0), valid=valid)


def with_inverse(batch: Batch) -> Batch:
    """A batch with depth has inverse depth too; samples of no dataset are all of one (0). Any other is returned as it is."""
    if batch.inverse is not None or batch.depth is None:
        return batch
    one = torch.zeros(len(batch.depth), dtype=torch.int64, device=batch.depth.device)
    return replace(batch, inverse=1 / batch.depth, dataset=one if batch.dataset is None else batch.dataset)


def to_device(item: T, device: torch.device) -> T:
    """Return the batch or view with every tensor on `device`."""

    def move(value: object) -> object:
        if isinstance(value, Tensor):
            return value.to(device, non_blocking=True)
        if isinstance(value, tuple):
            return tuple(to_device(view, device) for view in value)
        return value

    return replace(item, **{f.name: move(getattr(item, f.name)) for f in fields(item)})


def _with_inverse(batch: Batch, samples: Sequence[Sample]) -> Batch:
    inverse = torch.from_numpy(np.stack([s.inverse for s in samples]))[:, None].float()
    valid = torch.isfinite(inverse)
    dataset = torch.tensor([s.dataset or 0 for s in samples])
    return replace(batch, inverse=torch.where(valid, inverse, 0.0), valid=valid, dataset=dataset)


def _collate_view(views: Sequence[SampleView], K: Tensor) -> View:
    image = _images([v.image for v in views])
    poses = [v.source_T_target for v in views]
    speeds = [v.speed for v in views]
    pose = None if any(p is None for p in poses) else torch.from_numpy(np.stack(poses)).float()
    speed = None if any(s is None for s in speeds) else torch.tensor(speeds, dtype=torch.float32)
    return View(image, image, K, pose, speed, views[0].order)


def _images(images: Sequence[NDArray[np.uint8]]) -> Tensor:
    stacked = torch.from_numpy(np.ascontiguousarray(np.stack(images)))
    return stacked.permute(0, 3, 1, 2).contiguous().float().div_(255)

"""Augmentation keeps the geometry true: rays follow K, and two views still meet at the true depth."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from training.batch import Batch, View
from training.config import DataConfig
from training.data.augment import augment, crop_and_resize, flip, jitter
from training.geometry import backproject, transform, warp
from training.losses import photometric_error

CHANGES = [
    pytest.param(lambda b: b, id="none"),
    pytest.param(flip, id="flip"),
    pytest.param(lambda b: crop_and_resize(b, 1.25, 0.3, 0.8), id="zoom"),
    pytest.param(lambda b: flip(crop_and_resize(b, 1.4, 1.0, 0.0)), id="both"),
]


def seen_by(view: View, batch: Batch) -> Tensor:
    """Where the view sees what the target shows (B, 1, H, W), by the true depth."""
    points = transform(backproject(batch.depth, batch.K), view.source_T_target)
    u, v, z = torch.einsum("bij,bjhw->ibhw", view.K, points)
    height, width = view.image.shape[-2:]
    return ((z > 0) & (u >= 0) & (u <= (width - 1) * z) & (v >= 0) & (v <= (height - 1) * z))[:, None]


def error_at(batch: Batch, factor: float) -> float:
    """Mean photometric error of the views warped with the batch's own depth times a factor."""
    errors = []
    for view in batch.views:
        warped = warp(view.image, batch.depth * factor, batch.K, view.K, view.source_T_target)
        near = batch.valid & (batch.depth < 60.0) & seen_by(view, batch)
        errors.append(photometric_error(warped, batch.image)[near].mean())
    return float(torch.stack(errors).mean())


@pytest.mark.parametrize("change", CHANGES)
def test_the_true_depth_explains_the_views_best(street_batch: Batch, change) -> None:
    batch = change(street_batch)
    truth = error_at(batch, 1.0)
    assert error_at(batch, 0.8) > 1.1 * truth
    assert error_at(batch, 1.2) > 1.05 * truth


def ray_picture(K: Tensor, height: int, width: int) -> Tensor:
    """An image that shows each pixel's own ray x, y, 1."""
    return backproject(torch.ones(len(K), 1, height, width), K)


@pytest.mark.parametrize(("zoom", "left", "top"), [(1.25, 0.0, 0.0), (1.5, 1.0, 0.5), (2.0, 0.4, 1.0)])
def test_a_zoomed_camera_sees_the_same_rays(street_batch: Batch, zoom: float, left: float, top: float) -> None:
    picture = ray_picture(street_batch.K, 64, 192)
    zoomed = crop_and_resize(replace(street_batch, image=picture), zoom, left, top)
    expected = ray_picture(zoomed.K, 64, 192)
    inner = (..., slice(2, -2), slice(2, -2))  # the resizing repeats the border
    assert torch.allclose(zoomed.image[inner], expected[inner], atol=1e-4)
    assert zoomed.K[0, 0, 0] / street_batch.K[0, 0, 0] == pytest.approx(zoom, rel=0.02)
    assert all(torch.equal(view.K, zoomed.K) for view in zoomed.views)


def test_a_mirrored_camera_sees_mirrored_rays(street_batch: Batch) -> None:
    picture = ray_picture(street_batch.K, 64, 192)
    mirrored = flip(replace(street_batch, image=picture))
    assert torch.allclose(
        mirrored.image * torch.tensor([-1.0, 1.0, 1.0])[:, None, None], ray_picture(mirrored.K, 64, 192), atol=1e-4
    )


def test_flipping_twice_changes_nothing(street_batch: Batch) -> None:
    twice = flip(flip(street_batch))
    for name in ("image", "input", "depth", "valid"):
        assert torch.equal(getattr(twice, name), getattr(street_batch, name))
    assert torch.allclose(twice.K, street_batch.K)
    for view, original in zip(twice.views, street_batch.views, strict=True):
        assert torch.equal(view.image, original.image)
        assert torch.allclose(view.source_T_target, original.source_T_target)


def test_jitter_changes_only_what_the_network_sees_and_all_views_of_a_sample_alike() -> None:
    image = torch.rand(1, 3, 16, 16).expand(2, 3, 16, 16)
    other = image.clone()
    other[..., 8:] = 0.1  # a darker view, whose left half shows the same things
    K = torch.eye(3).expand(2, 3, 3)
    batch = jitter(Batch(image, image, K, (View(other, other, K, None),)), 0.3)
    assert torch.equal(batch.image, image)
    assert torch.equal(batch.views[0].image, other)
    assert torch.equal(batch.views[0].input[..., :8], batch.input[..., :8])
    changed = (batch.input - image).abs().mean(dim=(1, 2, 3))
    assert (changed > 0.01).all()
    assert not torch.allclose(batch.input[0], batch.input[1], atol=0.01)
    assert batch.input.min() >= 0
    assert batch.input.max() <= 1


def test_each_augmentation_can_be_switched_off(street_batch: Batch) -> None:
    still = DataConfig(flip=False, max_zoom=1.0, colour_jitter=0.0)
    assert augment(street_batch, still) is street_batch
    flips = [not torch.equal(augment(street_batch, replace(still, flip=True)).image, street_batch.image) for _ in range(40)]
    assert 8 <= sum(flips) <= 32
    zooms = [float(augment(street_batch, replace(still, max_zoom=1.5)).K[0, 0, 0] / street_batch.K[0, 0, 0]) for _ in range(40)]
    assert 1.0 <= min(zooms) < 1.15
    assert 1.35 < max(zooms) < 1.53


def test_processes_draw_the_colours_that_one_would(street_batch: Batch) -> None:
    whole = jitter(street_batch, 0.3)
    for rank in range(2):
        torch.manual_seed(0)
        half = replace(
            street_batch, **{n: getattr(street_batch, n)[2 * rank : 2 * rank + 2] for n in ("image", "input")}, views=()
        )
        assert torch.equal(jitter(half, 0.3, rank, 2).input, whole.input[2 * rank : 2 * rank + 2])

"""The low-texture method: features in place of pixels, at several strides, of stereo, video or both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from training.batch import Batch, View, collate
from training.data.street import kitti_camera
from training.data.street.samples import StreetSamples
from training.geometry import warp
from training.methods import Method
from training.methods.low_texture import LowTexture

Build = Callable[..., Method]
CHANGES = {"encoder": "resnet18", "decoder": "nested", "last_relu_only": True, "pooled_shortcut": True}
MIN_DEPTH, MAX_DEPTH = 1.0, 100.0


class Forced(nn.Module):
    """In the depth net's place: logits of a given depth (B, 1, H, W) [m] at every scale."""

    def __init__(self, depth: Tensor, scales: int = 1) -> None:
        super().__init__()
        disparity = (1 / depth - 1 / MAX_DEPTH) / (1 / MIN_DEPTH - 1 / MAX_DEPTH)
        self.logits, self.scales = nn.Parameter(torch.logit(disparity)), scales

    def forward(self, image: Tensor) -> list[Tensor]:
        return [self.logits] * self.scales


class Pyramid(nn.Module):
    """In the FeatureNet's place: the image itself, every pixel of it (stride 1), every second, every fourth."""

    def features(self, images: Sequence[Tensor]) -> list[list[Tensor]]:
        return [[image[..., ::stride, ::stride] for stride in (1, 2, 4)] for image in images]


def on_images(build: Build, levels: Sequence[int], depth: Tensor, **method: object) -> LowTexture:
    """The method with the image as its feature and with a given depth; what it returns besides the comparison is smoothness."""
    found = build(
        "low_texture", feature={"levels": list(levels), "weight": 1.0}, method={"supervised": 0.0, "smoothness": 0.0, **method}
    )
    found.depth_net, found.feature_net, found.frozen = Forced(depth), None, [Pyramid()]
    return found


def pair(batch: Batch, baseline_m: float, image: Tensor) -> Batch:
    """The target with one view, the other camera of a pair."""
    pose = torch.eye(4).repeat(len(batch.image), 1, 1)
    pose[:, 0, 3] = -baseline_m
    return replace(batch, views=(View(image, image, batch.K, pose),), depth=None, valid=None)


def test_where_the_feature_is_the_image_it_is_the_photometric_l1(build: Build, street_batch: Batch) -> None:
    """Least absolute difference over the warped views and, against cars at our own speed, the unwarped ones."""
    depth = street_batch.depth.clamp(1.1, 90.0)
    method = on_images(build, [0], depth)
    warped = [warp(v.image, depth, street_batch.K, v.K, v.source_T_target) for v in street_batch.views]
    candidates = [*warped, *(v.image for v in street_batch.views)]
    differences = torch.stack([(c - street_batch.image).abs().sum(dim=1) / 3 for c in candidates])
    terms = method.losses(street_batch)
    assert terms["feature"].item() == pytest.approx(differences.min(dim=0).values.mean().item(), rel=1e-3)
    unmasked = on_images(build, [0], depth, auto_masking=False).losses(street_batch)
    assert unmasked["feature"].item() == pytest.approx(differences[:2].min(dim=0).values.mean().item(), rel=1e-3)
    assert "photometric" not in terms


@pytest.mark.parametrize("levels", [[0], [1], [2], [0, 1, 2]])
def test_every_level_sees_the_same_disparity(build: Build, street_batch: Batch, levels: list[int]) -> None:
    """A ramp on a plane at depth fx b / 8 px: true depth leaves no error; half of it, which is 8 px more, leaves 8 slopes."""
    slope, shift = 0.002, 8.0
    baseline_m, columns = 0.5, torch.arange(192.0).expand(4, 3, 64, 192)
    batch = replace(street_batch, image=slope * columns, input=slope * columns)
    depth = (street_batch.K[:, 0, 0] * baseline_m / shift)[:, None, None, None].expand(4, 1, 64, 192)
    batch = pair(batch, baseline_m, slope * (columns + shift))
    for factor, error in ((1.0, 0.0), (0.5, slope * shift)):
        method = on_images(build, levels, depth * factor, auto_masking=False)
        found = method.losses(batch)["feature"].item()
        # At the border the other camera sees nothing, and its last column stands in: a share of 8 (or 16) columns in 192.
        assert error * (1 - 16 / 192) - 1e-4 <= found <= error + slope * shift * 8 / 192


@pytest.mark.parametrize("level", [0, 1, 2])
def test_true_depth_has_the_least_error_at_every_level(build: Build, level: int) -> None:
    """Features of a network that has learned nothing still move with what they show."""
    samples = StreetSamples(kitti_camera(192, 64), 4, views=("left", "right"), seed=11)
    batch = collate([samples[i] for i in range(4)])
    depth = torch.where(batch.valid, batch.depth, 99.0)
    method = build("low_texture", feature={"levels": [level], "encoder": "resnet18"}, method={"auto_masking": False}).eval()
    errors = []
    for factor in (1.0, 0.6, 0.8, 1.25, 1.6):
        method.depth_net = Forced((factor * depth).clamp(1.1, 90.0))
        with torch.no_grad():
            errors.append(method.losses(batch)["feature"].item())
    assert errors[0] < min(errors[1:])


def test_levels_are_weighed_alike(build: Build, street_batch: Batch) -> None:
    depth = street_batch.depth.clamp(1.1, 90.0)
    batch = pair(street_batch, 0.5, street_batch.views[0].image)
    alone = [on_images(build, [level], depth).losses(batch)["feature"].item() for level in range(3)]
    together = on_images(build, [0, 1, 2], depth).losses(batch)["feature"].item()
    assert together == pytest.approx(sum(alone) / 3, rel=1e-4)
    method = on_images(build, [0, 1, 2], depth, scales=3)
    method.depth_net = Forced(depth, scales=3)
    assert method.losses(batch)["feature"].item() == pytest.approx(together, rel=1e-4)


VIEWS = {"S": ["right"], "M": ["before", "after"], "MS": ["before", "after", "right"]}


@pytest.mark.parametrize("kind", VIEWS)
def test_a_few_steps_on_stereo_video_or_both(build: Build, kind: str) -> None:
    """Every term stays finite, every weight of the networks has moved, and there is depth with a sigma."""
    samples = StreetSamples(kitti_camera(64, 64), 4, views=VIEWS[kind], seed=5, known_poses=kind == "S")
    batch = collate([samples[i] for i in range(2)])
    method = build(
        "low_texture",
        data={"source": "street", "street_views": VIEWS[kind], "known_poses": kind == "S"},
        method={"supervised": 0.0, "scales": 4, "smoothness_order": "both", "auto_mask_stereo": False},
        feature={"weight": 1.0, "levels": [0, 1, 2], "detach": True, "reconstruction_scales": 4},
        network=CHANGES,
    ).train()
    before = {name: p.detach().clone() for name, p in method.named_parameters()}
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-3, weight_decay=0.0)
    for _ in range(2):
        terms = method.losses(batch)
        assert {"feature", "smoothness", "reconstruction", "discriminative", "convergent"} <= terms.keys()
        assert all(torch.isfinite(value) for value in terms.values())
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()
    assert [name for name, p in method.named_parameters() if torch.equal(p, before[name])] == []
    with torch.no_grad():
        depth, sigma = method.eval().predict(batch.image)
    assert torch.isfinite(depth).all()
    assert (sigma > 0).all()


def test_features_do_not_learn_to_be_alike(build: Build, street_batch: Batch) -> None:
    """Detached, the comparison teaches the depth net, and the FeatureNet only what its own terms ask for."""
    for detach in (True, False):
        method = build("low_texture", feature={"weight": 1.0, "levels": [0, 1, 2], "detach": detach}).train()
        method.losses(street_batch)["feature"].backward()
        pulls = sum(float(p.grad.abs().sum()) for p in method.feature_net.parameters() if p.grad is not None)
        assert (pulls == 0) == detach
        assert sum(float(p.grad.abs().sum()) for p in method.depth_net.parameters() if p.grad is not None) > 0


@pytest.mark.parametrize("sigma", ["log", "repr"])
def test_sigma_is_learned_from_the_features_errors(build: Build, street_batch: Batch, sigma: str) -> None:
    method = build("low_texture", method={"sigma": sigma}, feature={"weight": 1.0, "levels": [0, 2]}).train()
    terms = method.losses(street_batch)
    terms["likelihood" if sigma == "log" else "reprojection"].backward()
    head = next(iter(method.depth_net.decoder.heads.values()))
    assert head.bias.grad[1].abs() > 0

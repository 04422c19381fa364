"""Monodepth2: what its losses prefer, in scenes where the answer is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from training.batch import Batch
from training.config import ConfigError
from training.data.augment import crop_and_resize
from training.methods import Method

Build = Callable[..., Method]
VIDEO = {"known_poses": False}  # learns its poses
MIN_DEPTH, MAX_DEPTH = 1.0, 100.0


class Forced(nn.Module):
    """In the depth net's place: logits of a given depth (B, 1, H, W) [m]."""

    def __init__(self, depth: Tensor) -> None:
        super().__init__()
        disparity = (1 / depth.clamp(1.01, 99.0) - 1 / MAX_DEPTH) / (1 / MIN_DEPTH - 1 / MAX_DEPTH)
        self.logits = nn.Parameter(torch.logit(disparity))

    def forward(self, image: Tensor) -> list[Tensor]:
        return [self.logits]


def photometric(method: Method, batch: Batch, depth: Tensor) -> Tensor:
    method.depth_net = Forced(depth)
    torch.manual_seed(0)
    return method.losses(batch)["photometric"]


@pytest.mark.parametrize("auto_masking", [True, False])
def test_true_depth_has_the_least_photometric_loss(build: Build, street_batch: Batch, auto_masking: bool) -> None:
    method = build("monodepth2", method={"auto_masking": auto_masking, "scales": 1})
    depth = torch.where(street_batch.valid, street_batch.depth, 99.0)
    truth, *others = (photometric(method, street_batch, f * depth).item() for f in (1.0, 0.7, 0.85, 1.18, 1.4))
    assert truth < 0.98 * min(others)


@pytest.mark.parametrize("zoom", [1.0, 1.6])
def test_in_a_zoomed_crop_the_network_answers_for_the_training_camera(build: Build, street_batch: Batch, zoom: float) -> None:
    """Magnified by the zoom, things look that much nearer to it: true depth / zoom explains the views best."""
    method = build("monodepth2", method={"scales": 1})
    batch = crop_and_resize(street_batch, zoom, 0.5, 0.5)
    seen = torch.where(batch.valid, batch.depth, 99.0) / zoom
    truth, *others = (photometric(method, batch, f * seen).item() for f in (1.0, 0.7, 1.4, 1 / 1.6, 1.6))
    assert truth < 0.98 * min(others)


def test_a_camera_that_stands_still_teaches_nothing(build: Build, street_batch: Batch) -> None:
    """The unwarped views fit perfectly, so auto-masking leaves no pixel; without it, every pixel pulls."""
    views = tuple(replace(v, image=street_batch.image) for v in street_batch.views)
    still = replace(street_batch, views=views)
    pulls = []
    for auto_masking in (True, False):
        method = build("monodepth2", method={"auto_masking": auto_masking, "scales": 1})
        photometric(method, still, street_batch.depth).backward()
        pulls.append(float((method.depth_net.logits.grad.abs() > 1e-9).float().mean()))
    assert pulls[0] < 0.02
    assert pulls[1] > 0.5


def test_a_pose_learned_forwards_is_the_inverse_of_the_one_backwards(build: Build, street_batch: Batch) -> None:
    """The same two frames, once as target and frame after, once as target and frame before."""
    method = build("monodepth2", data=VIDEO).eval()
    before, after = (replace(v, source_T_target=None) for v in street_batch.views)
    target = replace(after, image=street_batch.image, input=street_batch.input)
    forwards = method.pose(replace(street_batch, views=(before, after)), 1)
    backwards = method.pose(replace(street_batch, input=after.input, views=(target, before)), 0)
    assert not torch.allclose(forwards, torch.eye(4).expand(4, 4, 4), atol=1e-6)
    assert torch.allclose(forwards @ backwards, torch.eye(4).expand(4, 4, 4), atol=1e-6)


def test_the_photometric_loss_teaches_the_pose_net(build: Build, street_batch: Batch) -> None:
    views = tuple(replace(v, source_T_target=None) for v in street_batch.views)
    method = build("monodepth2", data=VIDEO, method={"auto_masking": False})
    method.losses(replace(street_batch, views=views, depth=None, valid=None))["photometric"].backward()
    last = [p.grad.abs().sum() for p in method.pose_net.decoder[-1].parameters()]
    assert min(last) > 0


def test_velocity_is_the_distance_that_is_missing(build: Build, street_batch: Batch) -> None:
    method = build("monodepth2", method={"velocity": 0.5})
    assert method.losses(street_batch)["velocity"].item() == pytest.approx(0.0, abs=1e-5)
    speeds = torch.stack([v.speed for v in street_batch.views])
    views = tuple(replace(v, speed=3 * v.speed) for v in street_batch.views)
    term = method.losses(replace(street_batch, views=views))["velocity"]
    assert term.item() == pytest.approx(0.5 * 2 * speeds.mean().item(), rel=1e-4)
    assert "velocity" not in method.losses(replace(street_batch, views=()))  # streets with depth alone, among video


def test_settings_that_contradict_the_data_are_named(build: Build, street_batch: Batch) -> None:
    bare = tuple(replace(v, source_T_target=None, speed=None) for v in street_batch.views)
    batch = replace(street_batch, views=bare)
    with pytest.raises(ConfigError, match=r"no pose and the method learns none; set data.known_poses or give data.poses"):
        build("monodepth2").losses(batch)
    with pytest.raises(ConfigError, match=r"method.velocity needs the distance between frames; give data.poses"):
        build("monodepth2", data=VIDEO, method={"velocity": 0.1}).losses(batch)


def test_normalised_disparity_has_mean_one(build: Build) -> None:
    method = build("monodepth2", method={"normalise_disparity": True})
    depth = method.training_depth(torch.randn(2, 1, 64, 192))
    torch.testing.assert_close((1 / depth).mean(dim=(1, 2, 3)), torch.ones(2))


@pytest.mark.parametrize(
    ("data", "method", "metric"),
    [
        ({"source": "street"}, {}, True),
        ({}, {}, True),
        (VIDEO, {}, False),
        (VIDEO, {"velocity": 0.05}, True),
        ({}, {"normalise_disparity": True}, False),
    ],
    ids=["streets", "known poses", "learned poses", "velocity", "normalised"],
)
def test_depth_is_metric_where_something_gives_it_a_scale(build: Build, data: dict, method: dict, metric: bool) -> None:  # type: ignore[type-arg]
    assert build("monodepth2", data=data, method=method).metric is metric


def test_a_mirrored_picture_has_mirrored_depth_and_sigma(build: Build, street_batch: Batch) -> None:
    method = build("monodepth2", network={"pretrained": "imagenet"}).eval()
    with torch.no_grad():
        depth, sigma = method.predict(street_batch.image)
        mirrored = method.predict(street_batch.image.flip(3))
    assert torch.allclose(mirrored[0].flip(3), depth, rtol=1e-4)
    assert torch.allclose(mirrored[1].flip(3), sigma, rtol=1e-2, atol=1e-4)
    assert (sigma >= 0.99e-3 * depth).all()

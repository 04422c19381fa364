"""Monodepth2: what its losses prefer, in scenes where the answer is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from training.batch import Batch, View
from training.config import ConfigError
from training.data.augment import crop_and_resize
from training.data.street import CAMERA_HEIGHT
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


def learned(batch: Batch) -> tuple[View, ...]:
    """The views before and after, with poses that nobody knows."""
    return tuple(replace(v, source_T_target=None, order=order) for v, order in zip(batch.views, (-1, 1), strict=True))


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
    after = replace(street_batch.views[1], source_T_target=None, order=1)
    target = replace(after, image=street_batch.image, input=street_batch.input, order=-1)
    forwards = method.pose(street_batch, after)
    backwards = method.pose(replace(street_batch, input=after.input), target)
    assert not torch.allclose(forwards, torch.eye(4).expand(4, 4, 4), atol=1e-6)
    assert torch.allclose(forwards @ backwards, torch.eye(4).expand(4, 4, 4), atol=1e-6)


def test_the_photometric_loss_teaches_the_pose_net(build: Build, street_batch: Batch) -> None:
    views = learned(street_batch)
    method = build("monodepth2", data=VIDEO, method={"auto_masking": False})
    method.losses(replace(street_batch, views=views, depth=None, valid=None))["photometric"].backward()
    last = [p.grad.abs().sum() for p in method.pose_net.decoder[-1].parameters()]
    assert min(last) > 0


def test_two_frames_after_the_target_are_both_after_it(build: Build, street_batch: Batch) -> None:
    """Neighbours need not lie around the target: each pose says for itself which of the frames came first."""
    method = build("monodepth2", data=VIDEO).eval()
    views = tuple(replace(v, order=1) for v in learned(street_batch))
    for view in views:
        assert torch.equal(method.pose(street_batch, view), method.pose_net(street_batch.input, view.input))


def test_the_other_camera_of_a_pair_stays_where_it_is_known_to_be(build: Build, street_batch: Batch) -> None:
    """Stereo and video: the photometric loss teaches the video's pose; the baseline is taken as given and gives the metres."""
    method = build("monodepth2", data={**VIDEO, "stereo": True})
    aside = torch.eye(4).repeat(4, 1, 1)
    aside[:, 0, 3] = -0.54
    other = replace(street_batch.views[0], source_T_target=aside, order=0)
    batch = replace(street_batch, views=(*learned(street_batch), other))
    assert method.pose(batch, other) is aside
    method.losses(batch)["photometric"].backward()
    assert method.pose_net.decoder[-1].weight.grad.abs().sum() > 0
    assert method.metric


def test_velocity_is_the_distance_that_is_missing(build: Build, street_batch: Batch) -> None:
    method = build("monodepth2", data=VIDEO, method={"velocity": 0.5}).eval()
    views = learned(street_batch)
    lengths = [method.pose(street_batch, v)[:, :3, 3].norm(dim=1) for v in views]
    errors = [(length - view.speed).abs().mean().item() for length, view in zip(lengths, views, strict=True)]
    term = method.losses(replace(street_batch, views=views))["velocity"]
    assert term.item() == pytest.approx(0.5 * sum(errors) / 2, rel=1e-4)
    exact = tuple(replace(v, speed=length.detach()) for v, length in zip(views, lengths, strict=True))
    assert method.losses(replace(street_batch, views=exact))["velocity"].item() == pytest.approx(0.0, abs=1e-5)
    assert method.losses(street_batch)["velocity"].item() == 0.0  # known poses have their length
    assert "velocity" not in method.losses(replace(street_batch, views=()))  # streets with depth alone, among video


def test_settings_that_contradict_the_data_are_named(build: Build, street_batch: Batch) -> None:
    bare = tuple(replace(v, speed=None) for v in learned(street_batch))
    batch = replace(street_batch, views=bare)
    with pytest.raises(ConfigError, match=r"no pose and the method learns none; give data.poses, or set data.known_poses: false"):
        build("monodepth2").losses(batch)
    with pytest.raises(ConfigError, match=r"method.velocity needs the distance between frames; give data.poses"):
        build("monodepth2", data=VIDEO, method={"velocity": 0.1}).losses(batch)


@pytest.mark.parametrize("name", ["monodepth2", "featdepth", "low_texture"])
def test_images_that_teach_no_depth_are_refused(build: Build, street_batch: Batch, name: str) -> None:
    """Such as those of a mix, which have relative inverse depth alone: the loss would be that of flat depth, and fall."""
    batch = replace(street_batch, views=(), depth=None, valid=None)
    with pytest.raises(ConfigError, match=f"method {name} .* a batch has none .* data.source: mixed is for method.name: midas"):
        build(name).losses(batch)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_the_height_of_the_camera_brings_depth_to_metres(build: Build, street_batch: Batch, factor: float) -> None:
    """Depth that is wrong by a factor, and a loss that cannot see it: with poses unknown, only the ground tells."""
    method = build("monodepth2", data=VIDEO, method={"camera_height": CAMERA_HEIGHT, "ground": 1.0, "scales": 1})
    truth = torch.where(street_batch.valid, street_batch.depth, 99.0)
    batch = replace(street_batch, views=(), depth=None, valid=None)
    log_scale = torch.zeros(4, 1, 1, 1, requires_grad=True)
    optimizer = torch.optim.SGD([log_scale], lr=0.08)
    for _ in range(40):
        method.depth_net = Forced(factor * truth * log_scale.detach().exp())
        method.losses(batch)["camera_height"].backward()
        logits = method.depth_net.logits
        relative = logits.grad / torch.autograd.grad(torch.log(method.to_depth(logits)).sum(), logits)[0]
        log_scale.grad = relative.sum(dim=(1, 2, 3), keepdim=True)
        optimizer.step()
    assert method.metric
    assert (factor * log_scale.exp()).flatten().tolist() == pytest.approx([1.0] * 4, abs=0.03)


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
        ({**VIDEO, "stereo": True}, {}, True),
        ({**VIDEO, "stereo": True}, {"normalise_disparity": True}, False),
        (VIDEO, {"camera_height": 1.65}, True),
        (VIDEO, {"camera_height": 1.65, "normalise_disparity": True}, True),
        ({}, {"normalise_disparity": True}, False),
    ],
    ids=[
        "streets",
        "known poses",
        "learned poses",
        "velocity",
        "stereo and video",
        "stereo normalised",
        "camera height",
        "camera height normalised",
        "normalised",
    ],
)
def test_depth_is_metric_where_something_gives_it_a_scale(build: Build, data: dict, method: dict, metric: bool) -> None:
    assert build("monodepth2", data=data, method=method).metric is metric


def test_a_mirrored_picture_has_mirrored_depth_and_sigma(build: Build, street_batch: Batch) -> None:
    method = build("monodepth2", network={"pretrained": "imagenet"}).eval()
    with torch.no_grad():
        depth, sigma = method.predict(street_batch.image)
        mirrored = method.predict(street_batch.image.flip(3))
    assert torch.allclose(mirrored[0].flip(3), depth, rtol=1e-4)
    assert torch.allclose(mirrored[1].flip(3), sigma, rtol=1e-2, atol=1e-4)
    assert (sigma >= 0.99e-3 * depth).all()

"""MonoDiffusion's network against its published sizes, and what flows between its steps, scales, samples and images."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.config import ConfigError, TrainConfig
from training.networks import DISPARITY_BIAS
from training.networks.denoiser import Denoiser
from training.networks.diffusion_net import DiffusionNet
from training.networks.lite_mono import DilatedBlock

pytestmark = pytest.mark.usefixtures("tiny_encoder")

ConfigMaker = Callable[..., TrainConfig]
TINY = {"encoder": "tiny", "decoder": "monodepth2"}  # nothing random in training, and no BatchNorm
DENOISER = 23_137  # weights, of the published code
VISITS = ((100, 50, 0), (150, 100, 50, 0), (200, 150, 100, 50, 0))  # by scale
NetMaker = Callable[..., DiffusionNet]


@pytest.fixture
def make_net(make_config: ConfigMaker) -> NetMaker:
    """For images of 64x64, with differences in the diffusion's settings."""

    def make(**diffusion: Any) -> DiffusionNet:
        net = DiffusionNet(make_config(data={"width": 64, "height": 64}, network=TINY, diffusion=diffusion)).eval()
        for denoiser in net.denoisers:
            nn.init.normal_(denoiser.body[-1].weight, std=0.2)  # what is predicted matters, as after training
        return net

    return make


def weights(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


class Calls:
    """What the denoisers of a net are given: (noisy, step, condition), in turn."""

    def __init__(self, net: DiffusionNet) -> None:
        self.given: list[tuple[Tensor, Any, Tensor]] = []
        for denoiser in net.denoisers:
            denoiser.register_forward_pre_hook(lambda module, inputs: self.given.append(inputs))

    def first(self, scale: int) -> tuple[Tensor, Any, Tensor]:
        """What sampling at a scale of a 64x64 image starts with."""
        return next(given for given in self.given if given[0].shape[-2] == 64 >> scale)


def cue(net: DiffusionNet, scale: int, coarser: Tensor) -> Tensor:
    """What the denoiser of a scale is told of the coarser logit."""
    size = (64 >> scale, 64 >> scale)
    return F.interpolate(net.cues[scale](coarser), size=size, mode="bilinear", align_corners=False)


@pytest.mark.parametrize(
    ("changes", "denoisers", "cues"),
    [
        ({}, 3, 2),
        ({"shared_denoiser": True}, 1, 2),
        ({"geometric_cue": False}, 3, 0),
        ({"prediction": "direct"}, 3, 2),
        ({"steps": [1], "train_steps": [150]}, 1, 0),
    ],
)
def test_sizes_are_the_published_ones(make_config: ConfigMaker, changes: dict, denoisers: int, cues: int) -> None:
    """313,683 weights behind the encoder of Lite-Mono, 3.16 million in all, and what each switch leaves out of them."""
    net = DiffusionNet(make_config(network={"encoder": "lite_mono"}, diffusion=changes))
    assert weights(Denoiser()) == DENOISER
    assert weights(net.denoisers) == denoisers * DENOISER
    assert weights(net.cues) == cues * (9 + 1) * 16
    own = weights(net.decoder, net.denoisers, net.cues)
    assert own == 313_683 - (3 - denoisers) * DENOISER - (2 - cues) * 160
    unused = sum(2 * m.scale.numel() for m in net.encoder.modules() if isinstance(m, DilatedBlock))  # LayerNorms of the code
    assert (weights(net) + unused - own) / 1e6 == pytest.approx(2.848, abs=1e-3)


def test_the_denoiser_is_its_equation_written_out() -> None:
    """Condition + embedding of the step + 3x3 of the noisy map; 3x3, GroupNorm of four, ReLU, 3x3; zeros beyond the borders."""
    denoiser, noisy, condition = Denoiser().double(), torch.randn(2, 1, 4, 5).double(), torch.randn(2, 16, 4, 5).double()
    nn.init.normal_(denoiser.body[1].weight)
    nn.init.normal_(denoiser.body[1].bias)
    steps = torch.tensor([7, 1279])
    found = denoiser(noisy, steps, condition).detach().numpy()
    parameters = {name: value.detach().numpy() for name, value in denoiser.named_parameters()}

    def convolve(name: str, x: np.ndarray) -> np.ndarray:
        kernel, bias = parameters[f"{name}.weight"], parameters[f"{name}.bias"]
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
        rows, columns = x.shape[1:]
        windows = [[padded[:, i : i + 3, j : j + 3] for j in range(columns)] for i in range(rows)]
        return np.array([[[(w * k).sum() + b for w in row] for row in windows] for k, b in zip(kernel, bias, strict=True)])

    for image in range(2):
        x = condition[image].numpy() + parameters["step.weight"][steps[image], :, None, None]
        x = convolve("body.0", x + convolve("state", noisy[image].numpy()))
        groups = x.reshape(4, -1)
        x = ((groups - groups.mean(1, keepdims=True)) / np.sqrt(groups.var(1, keepdims=True) + 1e-5)).reshape(x.shape)
        x = x * parameters["body.1.weight"][:, None, None] + parameters["body.1.bias"][:, None, None]
        assert found[image] == pytest.approx(convolve("body.3", np.maximum(x, 0)), abs=1e-9)
    assert torch.equal(denoiser(noisy, 7, condition)[0], denoiser(noisy, steps, condition)[0])


def test_each_scale_is_visited_as_published_from_coarse_to_fine(make_net: NetMaker) -> None:
    """5, 4 and 3 steps at 1/4, 1/2 and full size, of 2592 multiply-adds a pixel: 1.37 * 10^9 at 640x192."""
    net = make_net()
    calls = Calls(net)
    net(torch.rand(1, 3, 64, 64))
    assert [(step, noisy.shape[-1]) for noisy, step, _ in calls.given] == [
        (step, 64 >> scale) for scale in (2, 1, 0) for step in VISITS[scale]
    ]
    kernels = sum(m.weight[0].numel() * m.out_channels for m in net.denoisers[0].modules() if isinstance(m, nn.Conv2d))
    pixels = sum(noisy.numel() for noisy, _, _ in calls.given) * (640 * 192) / 64**2
    assert kernels == 2592
    assert kernels * pixels / 1e9 == pytest.approx(1.37, abs=0.005)


@pytest.mark.parametrize("encoder", [{"encoder": "lite_mono_tiny"}, {"encoder": "tiny", "decoder": "light"}, TINY])
def test_maps_have_their_sizes_whatever_the_decoders_strides(make_config: ConfigMaker, encoder: dict[str, str]) -> None:
    net = DiffusionNet(make_config(network=encoder, diffusion={"samples": 5})).eval()
    image = torch.rand(2, 3, 64, 192)
    with torch.no_grad():
        assert [tuple(m.shape) for m in net(image)] == [(2, 1, 64, 192)] * 3
        assert [tuple(m.shape) for m in net.pyramid(image)] == [(2, 1, 64, 192), (2, 1, 32, 96), (2, 1, 16, 48)]
        assert [tuple(c.shape) for c in net.conditions(net.features(image))] == [(2, 16, 64 >> i, 192 >> i) for i in range(3)]
        assert net.passes(image).shape == (2, 5, 1, 64, 192)
        assert net.trajectory(image).shape == (2, 3, 1, 64, 192)


def test_a_single_scale_starts_from_noise_of_the_images_size(make_net: NetMaker) -> None:
    net = make_net(steps=[4], train_steps=[1000])
    calls = Calls(net)
    assert [tuple(m.shape) for m in net.pyramid(torch.rand(1, 3, 64, 64))] == [(1, 1, 64, 64)]
    assert [step for _, step, _ in calls.given] == [750, 500, 250, 0]
    assert calls.given[0][0].std() == pytest.approx(1.0, abs=5 / math.sqrt(2 * 64 * 64))


def test_finer_scales_start_from_the_coarsest_noise_enlarged(make_net: NetMaker) -> None:
    net = make_net()
    calls = Calls(net)
    net(torch.rand(1, 3, 64, 64))
    coarsest = calls.first(2)[0][0, 0].numpy()
    assert coarsest.shape == (16, 16)
    for scale in (1, 0):
        expected = cv2.resize(coarsest, (64 >> scale, 64 >> scale), interpolation=cv2.INTER_LINEAR)
        assert calls.first(scale)[0][0, 0].numpy() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("fresh", [False, True])
def test_enlarged_noise_is_smooth_and_fresh_noise_is_white(make_net: NetMaker, fresh: bool) -> None:
    """Bilinear weights w and 1 - w leave w^2 + (1 - w)^2 of the variance along each axis, on average over the new pixels."""
    net = make_net(fresh_noise=fresh).train()
    calls = Calls(net)
    with torch.no_grad():
        net(torch.rand(64, 3, 64, 64))
    places = {1: (0.25, 0.75), 0: (1 / 8, 3 / 8, 5 / 8, 7 / 8)}
    for scale in (2, 1, 0):
        start = calls.first(scale)[0]
        assert len(start.unique(dim=0)) == 64  # each image has its own
        inner = start[..., 4:-4, 4:-4]
        left = 1.0 if fresh or scale == 2 else np.mean([w**2 + (1 - w) ** 2 for w in places[scale]])
        assert inner.std().item() == pytest.approx(left, rel=0.02)
        along = ((inner[..., 1:] * inner[..., :-1]).mean() / inner.square().mean()).item()
        assert along > 0.5 if scale < 2 and not fresh else abs(along) < 0.05
        pooled = F.avg_pool2d(start, 4 >> scale).flatten()
        with_coarsest = torch.corrcoef(torch.stack([pooled, calls.first(2)[0].flatten()]))[0, 1].item()
        assert with_coarsest > 0.9 if scale == 2 or not fresh else abs(with_coarsest) < 0.05


def test_the_coarser_logit_is_added_to_the_condition(make_net: NetMaker) -> None:
    net, image = make_net(), torch.rand(2, 3, 64, 64)
    calls = Calls(net)
    with torch.no_grad():
        logits, conditions = net.pyramid(image), net.conditions(net.features(image))
        assert torch.equal(calls.first(2)[2], conditions[2])
        for scale in (1, 0):
            added = cue(net, scale, logits[scale + 1])
            assert added.abs().mean() > 0.01
            assert torch.allclose(calls.first(scale)[2], conditions[scale] + added, atol=1e-6)


def test_without_the_cue_scales_do_not_know_of_each_other(make_net: NetMaker) -> None:
    net, image = make_net(geometric_cue=False), torch.rand(1, 3, 64, 64)
    before = net.pyramid(image)
    nn.init.normal_(net.denoisers[2].body[-1].weight)
    after = net.pyramid(image)
    assert [torch.equal(a, b) for a, b in zip(after, before, strict=True)] == [True, True, False]


def test_the_finest_logit_teaches_every_step_of_every_scale(make_net: NetMaker) -> None:
    """The steps' embeddings with a gradient are those visited; and encoder, decoder, cues and denoisers all have one."""
    net = make_net().train()
    net(torch.rand(2, 3, 64, 64))[0].square().mean().backward()
    for denoiser, visits in zip(net.denoisers, VISITS, strict=True):
        assert set(denoiser.step.weight.grad.abs().sum(dim=1).nonzero().flatten().tolist()) == set(visits)
    unused = {name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    assert unused <= {"decoder.heads.3.weight", "decoder.heads.3.bias"}  # Monodepth2's decoder has a scale that none asks for


def test_gradients_through_the_whole_chain_are_right(make_config: ConfigMaker) -> None:
    """From the finest logit to the noise and to the condition of the coarsest scale, against finite differences."""
    diffusion = {"steps": [1, 2, 2], "train_steps": [20, 20, 20]}
    config = make_config(data={"width": 32, "height": 32}, network=TINY, diffusion=diffusion)
    net = DiffusionNet(config).double().eval()
    finer = [torch.randn(1, 16, 32 >> scale, 32 >> scale, dtype=torch.float64) for scale in (0, 1)]

    def finest(noise: Tensor, condition: Tensor) -> Tensor:
        return net.denoise([*finer, condition], [noise])[0][-1]

    noise, condition = torch.randn(1, 1, 8, 8).double().requires_grad_(), torch.randn(1, 16, 8, 8).double().requires_grad_()
    assert torch.autograd.gradcheck(finest, (noise, condition), fast_mode=True)


@pytest.mark.parametrize("fresh", [False, True])
def test_a_prediction_repeats_and_leaves_the_random_state_alone(make_net: NetMaker, fresh: bool) -> None:
    net, image = make_net(fresh_noise=fresh), torch.rand(2, 3, 64, 64)
    ways = (net.passes, net.trajectory, lambda x: torch.stack(net(x)))
    first = [way(image) for way in ways]
    torch.manual_seed(123)
    state = torch.get_rng_state()
    other = make_net(fresh_noise=fresh)
    other.load_state_dict(net.state_dict())
    torch.set_rng_state(state)
    again = (other.passes(image), other.trajectory(image), torch.stack(other(image)))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_training_draws_new_noise_from_the_random_state(make_net: NetMaker) -> None:
    net, image = make_net().train(), torch.rand(1, 3, 64, 64)
    torch.manual_seed(5)
    first, second = net(image)[0], net(image)[0]
    torch.manual_seed(5)
    assert torch.equal(net(image)[0], first)
    assert not torch.allclose(second, first, atol=1e-3)


@pytest.mark.parametrize("fresh", [False, True])
def test_passes_are_runs_from_each_noise_alone(make_net: NetMaker, fresh: bool) -> None:
    net, images = make_net(samples=3, fresh_noise=fresh), torch.rand(2, 3, 64, 64)
    noises = [getattr(net, f"noise{i}") for i in range(3 if fresh else 1)]
    assert noises[-1].shape == (3, 1, 16, 16)
    with torch.no_grad():
        passes = net.passes(images)
        for image in range(2):
            conditions = net.conditions(net.features(images[image : image + 1]))
            for k in range(3):
                alone = net.denoise(conditions, [noise[k : k + 1] for noise in noises])[0][-1][0]
                assert torch.allclose(passes[image, k], alone, atol=1e-5)
        assert torch.allclose(passes[:, 0], net(images)[0], atol=1e-5)
    assert min((passes[:, i] - passes[:, j]).abs().max() for i in range(3) for j in range(i)) > 0.1


@pytest.mark.parametrize("fresh", [False, True])
def test_a_samples_noise_does_not_depend_on_how_many_there_are(make_net: NetMaker, fresh: bool) -> None:
    few, many = make_net(samples=1, fresh_noise=fresh), make_net(samples=6, fresh_noise=fresh)
    for index in range(3 if fresh else 1):
        assert torch.equal(getattr(few, f"noise{index}"), getattr(many, f"noise{index}")[:1])


def test_the_trajectory_ends_in_the_prediction(make_net: NetMaker) -> None:
    net, image = make_net(), torch.rand(2, 3, 64, 64)
    trajectory = net.trajectory(image)
    assert torch.equal(trajectory[:, -1], net(image)[0])
    assert not torch.allclose(trajectory[:, 0], trajectory[:, -1], atol=0.1)


@pytest.mark.parametrize("centre", [0.0, -2.5])
def test_noise_in_which_nothing_is_found_is_only_enlarged(make_net: NetMaker, centre: float) -> None:
    """A predicted noise of 0 leaves x / sqrt(share of the first step) of it, beside the centre."""
    net = make_net(centre=centre)
    for denoiser in net.denoisers:
        nn.init.zeros_(denoiser.body[-1].weight)
        nn.init.zeros_(denoiser.body[-1].bias)
    noise = net.noises(1)[0]
    share = math.prod(1 - (1e-4 + (0.02 - 1e-4) * step / 249) for step in range(201))
    assert torch.allclose(net.pyramid(torch.rand(1, 3, 64, 64))[2], noise / math.sqrt(share) + centre, atol=1e-4)


def test_images_of_a_batch_and_their_samples_do_not_mix(make_net: NetMaker) -> None:
    net, images = make_net(samples=2), torch.rand(3, 3, 64, 64, requires_grad=True)
    for way in (net.passes, net.trajectory, lambda x: net(x)[0]):
        answer = way(images)
        assert torch.allclose(answer[1:2], way(images[1:2]), atol=1e-5)
        (gradient,) = torch.autograd.grad(answer[1].sum(), images)
        assert gradient[1].abs().sum() > 0
        assert gradient[[0, 2]].abs().sum() == 0


def test_the_control_has_as_many_weights_and_no_noise(make_net: NetMaker) -> None:
    net, image = make_net(prediction="direct"), torch.rand(2, 3, 64, 64)
    assert weights(net) == weights(make_net())
    calls = Calls(net)
    before = net(image)
    assert [(step, noisy.abs().sum().item(), noisy.shape[-1]) for noisy, step, _ in calls.given] == [
        (0, 0.0, 16),
        (0, 0.0, 32),
        (0, 0.0, 64),
    ]
    net.noise0.normal_()
    assert all(torch.equal(a, b) for a, b in zip(net(image), before, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(net.train()(image), before, strict=True))
    assert net.trajectory(image).shape == (2, 1, 1, 64, 64)
    for denoiser in net.denoisers:
        nn.init.zeros_(denoiser.body[-1].weight)
    assert (net(image)[0] == DISPARITY_BIAS).all()


def test_one_denoiser_can_serve_all_scales(make_net: NetMaker) -> None:
    net = make_net(shared_denoiser=True).train()
    net(torch.rand(1, 3, 64, 64))[0].sum().backward()
    rows = net.denoisers[0].step.weight.grad.abs().sum(dim=1).nonzero().flatten().tolist()
    assert rows == sorted({step for visits in VISITS for step in visits})


def test_a_schedule_that_ends_in_pure_noise_is_sampled_from_its_end(make_net: NetMaker) -> None:
    net = make_net(prediction="v", zero_terminal=True, spacing="trailing", steps=[1, 1, 1])
    calls = Calls(net)
    maps = net.pyramid(torch.rand(1, 3, 64, 64))
    assert [step for _, step, _ in calls.given] == [249, 199, 149]
    assert [net.schedule(scale)[-1].item() for scale in range(3)] == [0.0] * 3
    assert all(torch.isfinite(m).all() for m in maps)
    # v of pure noise is the negative clean signal, whatever the noise.
    predicted = net.predict(2, calls.first(2)[0], 249, calls.first(2)[2])
    assert torch.allclose(maps[2], -predicted, atol=1e-6)


def test_weights_fit_other_steps_and_samples(make_net: NetMaker) -> None:
    """Schedules and noises follow from the configuration, and are no part of a checkpoint."""
    net = make_net()
    assert not any(name.startswith(("noise", "schedule")) for name in net.state_dict())
    make_net(steps=[1, 2, 2], samples=9, spacing="trailing").load_state_dict(net.state_dict())


@pytest.mark.parametrize(
    ("diffusion", "message"),
    [
        ({"steps": [3, 4]}, r"diffusion.steps is \(3, 4\) and diffusion.train_steps \(150, 200, 250\); expected one of each"),
        ({"steps": [3, 4, 251]}, r"expected one of each per scale, and no more steps than the schedule has"),
        ({"zero_terminal": True}, r"zero_terminal ends in pure noise, of which epsilon says nothing"),
        ({"zero_terminal": True, "spacing": "trailing"}, r"expected diffusion.prediction: v and diffusion.spacing: trailing"),
        ({"zero_terminal": True, "prediction": "v"}, r"where leading steps never are"),
        ({"steps": [1] * 5, "train_steps": [99] * 5}, r"diffusion.steps has 5 scales; expected at most the decoder's 4"),
    ],
)
def test_settings_that_do_not_fit_are_refused(make_net: NetMaker, diffusion: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_net(**diffusion)

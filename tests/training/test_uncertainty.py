"""Every way to get sigma, with every method: it learns, is positive, and its graph says the same; and what each measures."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from depth_ros import bundle as bundles
from depth_ros.engines import EngineOptions, load_engine
from training.batch import Batch
from training.checkpoint import save_checkpoint
from training.config import ConfigError
from training.evaluate import TorchEngine, describe_method
from training.export import check_parity, export, main
from training.methods import METHODS, Ensemble, Method, Predictor
from training.uncertainty import LOG_SCALE_RANGE, REPROJECTION_WEIGHT, UNCERTAINTIES, build_uncertainty, mean_and_deviation

pytestmark = pytest.mark.usefixtures("tiny_encoder")

Build = Callable[..., Method]
TINY = {"data": {"width": 64, "height": 64}, "network": {"encoder": "tiny", "decoder": "monodepth2"}}
WAYS = {  # of methods that do not take all but a diffusion's
    "monodiffusion": ("flip", "samples", "trajectory"),
    "midas": ("flip", "dropout"),
}
PAIRS = [
    (name, way)
    for name in METHODS
    for way, part in UNCERTAINTIES.items()
    if (way in WAYS[name] if name in WAYS else not part.diffusion)
]


def tiny(batch: Batch) -> Batch:
    """Its left third."""
    views = tuple(replace(v, image=v.image[..., :64], input=v.input[..., :64]) for v in batch.views)
    corner = {name: getattr(batch, name)[..., :64] for name in ("image", "input", "depth", "valid")}
    return replace(batch, views=views, **corner)


class Says(nn.Module):
    """In the depth net's place: given maps (B, outputs, H, W), and given passes (B, P, outputs, H, W)."""

    def __init__(self, maps: Tensor | None = None, passes: Tensor | None = None) -> None:
        super().__init__()
        self.maps, self._passes = maps, passes

    def forward(self, image: Tensor) -> list[Tensor]:
        return [self.maps]

    def passes(self, image: Tensor) -> Tensor:
        return self._passes


def as_depth(value: Tensor) -> Tensor:
    """Maps hold the depth itself."""
    return value


def full(value: float) -> Tensor:
    return torch.full((1, 1, 2, 4), value)


@pytest.mark.parametrize(("name", "way"), PAIRS)
def test_training_pulls_at_every_output(build: Build, street_batch: Batch, name: str, way: str) -> None:
    method = build(name, method={"sigma": way, "scales": 4}, **TINY).train()
    heads, outputs = [head for _, head in sorted(method.depth_net.decoder.heads.items())], 1 + build_uncertainty(way).outputs
    if name == "monodiffusion":  # its heads are the conditions of its scales
        heads, outputs = heads[:3], 16
    sum(method.losses(tiny(street_batch)).values()).backward()
    pulls = [head.weight.grad.abs().amax(dim=(1, 2, 3)) for head in heads]
    assert all(len(p) == outputs and (p > 0).all() and torch.isfinite(p).all() for p in pulls)
    with torch.no_grad():
        depth, sigma = method.eval().predict(tiny(street_batch).image)
        again = method.predict(tiny(street_batch).image)
    assert torch.isfinite(sigma).all()
    assert (sigma > 0).all()
    assert torch.equal(depth, again[0])
    assert torch.equal(sigma, again[1])


def graph_agrees(method: Predictor, folder: Path) -> None:
    method.sigma_calibration.fill_(1.7)
    bundle = export(method, folder, describe_method(method, "mine"))
    noise = np.random.default_rng(3).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)  # another number of images
    assert check_parity(method, bundle, noise) < 1e-3
    depth, sigma = TorchEngine(method).infer(noise)
    assert (sigma > 0).all()
    assert sigma.std() > 0
    assert depth.std() > 0


@pytest.mark.parametrize(("name", "way"), [pair for pair in PAIRS if pair[0] in ("monodepth2", "monodiffusion")])
def test_the_graph_of_every_way_agrees_with_torch(tmp_path: Path, build: Build, name: str, way: str) -> None:
    graph_agrees(build(name, method={"sigma": way}, **TINY).eval(), tmp_path / way)


def test_several_checkpoints_make_one_bundle(tmp_path: Path, build: Build) -> None:
    """What the command line writes says of the same image what the members' mean says."""
    methods, paths = [], []
    for seed in (1, 2):
        torch.manual_seed(seed)
        methods.append(build("monodepth2", **TINY).eval())
        paths.append(tmp_path / f"run{seed}" / "best.ckpt")
        paths[-1].parent.mkdir()
        save_checkpoint(paths[-1], {"average": AveragedModel(methods[-1], use_buffers=True)}, methods[-1].config, seed, 1.0)
    assert main([*map(str, paths), str(tmp_path / "both")]) == 0
    bundle = bundles.load(tmp_path / "both")
    assert (bundle.provenance["run"], bundle.provenance["step"]) == ("run1, run2", "1, 2")
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    depth, sigma = load_engine(bundle, options=EngineOptions(threads=1)).infer(image)
    with torch.no_grad():
        x = torch.from_numpy(image).permute(0, 3, 1, 2).float() / 255
        inverse = [1 / method.to_depth(method.depth_net(x)[0])[0, 0].numpy() for method in methods]
    mean, spread = (inverse[0] + inverse[1]) / 2, abs(inverse[0] - inverse[1]) / 2
    assert depth[0] == pytest.approx(1 / mean, rel=1e-3)
    assert sigma[0] == pytest.approx(np.maximum(spread / mean, 1e-3) / mean, rel=1e-2, abs=1e-4)


def test_the_flip_tells_where_a_picture_and_its_mirror_disagree() -> None:
    """Depths of 2 and 4 m, and the mirror image says 4 and 2 m where the picture's mirror would say 2 and 4."""
    maps = full(2.0)
    maps[..., 2:] = 4.0
    depth, relative = build_uncertainty("flip").predict(Says(maps), as_depth, torch.rand(1, 3, 2, 4))  # blind to the mirroring
    mean, half = (1 / 2 + 1 / 4) / 2, (1 / 2 - 1 / 4) / 2
    assert depth.unique().tolist() == pytest.approx([1 / mean])
    assert relative.unique().tolist() == pytest.approx([half / mean])


def test_dropout_tells_how_far_its_passes_differ() -> None:
    passes = torch.tensor([2.0, 4.0, 4.0, 8.0])[None, :, None, None, None].expand(1, 4, 1, 2, 4)
    depth, relative = build_uncertainty("dropout").predict(Says(passes=passes), as_depth, torch.rand(1, 3, 2, 4))
    inverse = np.array([1 / 2, 1 / 4, 1 / 4, 1 / 8])
    assert depth.unique().tolist() == pytest.approx([1 / inverse.mean()])
    assert relative.unique().tolist() == pytest.approx([inverse.std() / inverse.mean()])


def test_repr_learns_the_error_and_teaches_depth_nothing() -> None:
    error = full(0.3).requires_grad_()
    extra = full(0.5).requires_grad_()
    valid = torch.zeros(1, 1, 2, 4, dtype=torch.bool)
    valid[..., :2] = True
    terms = build_uncertainty("repr").losses("photometric", error, extra, valid)
    assert terms["photometric"].item() == pytest.approx(0.3)
    assert terms["reprojection"].item() == pytest.approx(REPROJECTION_WEIGHT * 0.2)
    terms["reprojection"].backward()
    assert error.grad is None
    assert extra.grad[valid].tolist() == pytest.approx([REPROJECTION_WEIGHT / 4] * 4)
    assert (extra.grad[~valid] == 0).all()


def test_repr_is_never_below_zero() -> None:
    maps = torch.cat([full(5.0), full(-0.2)], dim=1)
    depth, relative = build_uncertainty("repr").predict(Says(maps), as_depth, torch.rand(1, 3, 2, 4))
    assert (depth == 5.0).all()
    assert (relative == 0.0).all()


def test_log_is_the_likelihood_of_the_error() -> None:
    error, extra = full(0.3).requires_grad_(), full(math.log(0.1)).requires_grad_()
    everywhere = torch.ones(1, 1, 2, 4, dtype=torch.bool)
    terms = build_uncertainty("log").losses("photometric", error, extra, everywhere)
    assert list(terms) == ["likelihood"]
    assert terms["likelihood"].item() == pytest.approx(0.3 / 0.1 + math.log(0.1) + math.log(2))
    terms["likelihood"].backward()
    assert error.grad.sum().item() == pytest.approx(1 / 0.1)  # what is uncertain pulls less


@pytest.mark.parametrize(("way", "name"), [("repr", "reprojection"), ("log", "likelihood")])
def test_sigma_is_not_told_that_a_masked_pixel_is_right(way: str, name: str) -> None:
    """A car at the camera's own speed: its unwarped view fits (error .01), its depth does not (error .4)."""
    observed, extra = full(0.4).requires_grad_(), full(0.2).requires_grad_()
    masked = torch.minimum(observed, full(0.01))
    everywhere = torch.ones(1, 1, 2, 4, dtype=torch.bool)
    part = build_uncertainty(way)
    value = part.losses("photometric", masked, extra, everywhere, observed)[name]
    unmasked = part.losses("photometric", full(0.4), full(0.2), everywhere)[name]
    assert value.item() == pytest.approx(unmasked.item())
    value.backward()
    assert observed.grad is None or (observed.grad == 0).all()
    assert (extra.grad != 0).all()


@pytest.mark.parametrize("log_scale", [-50.0, math.log(0.1), 50.0])
def test_the_deviation_of_log_is_that_of_a_laplace_distribution(log_scale: float) -> None:
    maps = torch.cat([full(5.0), full(log_scale)], dim=1)
    _, relative = build_uncertainty("log").predict(Says(maps), as_depth, torch.rand(1, 3, 2, 4))
    bounded = min(max(log_scale, LOG_SCALE_RANGE[0]), LOG_SCALE_RANGE[1])
    assert relative.unique().tolist() == pytest.approx([math.sqrt(2) * math.exp(bounded)])


def test_a_mixture_varies_by_the_mean_of_variances_and_the_variance_of_means() -> None:
    """Samples of three equally likely normal distributions have the mixture's mean and deviation."""
    rng = np.random.default_rng(0)
    means, deviations = np.array([0.2, 0.3, 0.4]), np.array([0.02, 0.05, 0.01])
    samples = rng.normal(means, deviations, (200_000, 3))
    tensors = (torch.tensor(v, dtype=torch.float32)[None, :, None, None] for v in (means, deviations))
    depth, relative = mean_and_deviation(*tensors)
    assert 1 / depth.item() == pytest.approx(samples.mean(), rel=1e-3)
    assert relative.item() == pytest.approx(samples.std() / samples.mean(), rel=5e-3)


def forced(build: Build, way: str, *values: float, **sections: object) -> Method:
    """A method whose network answers the same everywhere: a depth [m] and, with `log`, a scale."""
    method = build("monodepth2", method={"sigma": way}, **sections).eval()
    disparity = (1 / values[0] - 1 / 100) / (1 - 1 / 100)
    maps = [full(math.log(disparity / (1 - disparity))), *(full(math.log(value)) for value in values[1:])]
    method.depth_net = Says(torch.cat(maps, dim=1))
    return method


def test_an_ensemble_of_plain_networks_tells_how_far_they_differ(build: Build) -> None:
    ensemble = Ensemble([forced(build, "flip", depth) for depth in (5.0, 10.0, 20.0)])
    depth, sigma = ensemble.predict(torch.rand(1, 3, 2, 4))
    inverse = 1 / np.array([5.0, 10.0, 20.0])
    assert depth.unique().tolist() == pytest.approx([1 / inverse.mean()], rel=1e-4)
    assert sigma.unique().tolist() == pytest.approx([inverse.std() / inverse.mean() ** 2], rel=1e-3)


def test_an_ensemble_of_networks_with_a_learned_sigma_adds_the_mean_of_theirs(build: Build) -> None:
    ensemble = Ensemble([forced(build, "log", 10.0, 0.1), forced(build, "log", 20.0, 0.2)])
    ensemble.sigma_calibration.fill_(3.0)
    depth, sigma = ensemble.predict(torch.rand(1, 3, 2, 4))
    inverse, scales = 1 / np.array([10.0, 20.0]), np.array([0.1, 0.2])
    variance = inverse.var() + (2 * (scales * inverse) ** 2).mean()
    assert depth.unique().tolist() == pytest.approx([1 / inverse.mean()], rel=1e-4)
    assert sigma.unique().tolist() == pytest.approx([3 * math.sqrt(variance) / inverse.mean() ** 2], rel=1e-3)


def test_members_without_metres_do_not_count_their_scales_as_uncertainty(build: Build) -> None:
    data = {"known_poses": False}
    ensemble = Ensemble([forced(build, "flip", depth, data=data) for depth in (5.0, 15.0)])
    depth, sigma = ensemble.predict(torch.rand(1, 3, 2, 4))
    assert not ensemble.metric
    assert depth.unique().tolist() == pytest.approx([5.0], rel=1e-4)
    assert (sigma <= 1.01e-3 * depth).all()


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"data": {"width": 96}}, r"data.width 192 and 96"),
        ({"network": {"max_depth": 80.0}}, r"network.max_depth 100 and 80"),
        ({"data": {"known_poses": False}}, r"partly metric, partly scale_invariant"),
    ],
)
def test_members_that_do_not_fit_are_refused(build: Build, sections: dict[str, dict[str, object]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Ensemble([build("monodepth2"), build("monodepth2", **sections)])
    other = build("monodepth2")
    other.focal.mul_(2)
    with pytest.raises(ConfigError, match=r"focal lengths .* expected the same camera"):
        Ensemble([build("monodepth2"), other])


def test_an_unknown_way_is_refused(build: Build) -> None:
    with pytest.raises(ConfigError, match=r"method.sigma is 'boot'; expected one of flip, dropout, samples, trajectory"):
        build("monodepth2", method={"sigma": "boot"})

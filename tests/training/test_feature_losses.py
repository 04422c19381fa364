"""FeatDepth's loss terms against closed forms, and the claim behind them: a slope where the image has none."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from training import feature_losses as fl
from training import losses
from training.geometry import warp

FX, BASELINE, DEPTH = 100.0, 0.04, 2.0  # 2 px of disparity


def camera(height: int, width: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor([[FX, 0, (width - 1) / 2], [0, FX, (height - 1) / 2], [0, 0, 1]], dtype=dtype)[None]


def aside(dtype: torch.dtype = torch.float32) -> Tensor:
    """To a camera BASELINE to the right: points move left."""
    pose = torch.eye(4, dtype=dtype)[None].clone()
    pose[:, 0, 3] = -BASELINE
    return pose


def ramp(height: int, width: int, slope: float) -> Tensor:
    return slope * torch.arange(float(width)).expand(1, 1, height, width)


@pytest.mark.parametrize("slope", [0.5, 2.0])
def test_the_discriminative_loss_is_the_slope_of_the_features(slope: float) -> None:
    flat = torch.full((1, 3, 6, 8), 0.5)
    assert fl.discriminative([ramp(6, 8, slope)], flat).item() == pytest.approx(-slope)


def test_slopes_count_most_where_the_image_is_flat() -> None:
    """The same feature step of 1, once within a flat part, once on an edge of height 1 that allows exp(-1) of it."""
    image = torch.zeros(1, 3, 4, 8)
    image[..., 4:] = 1.0
    on_edge, off_edge = (image[:, :1], (torch.arange(8.0) >= 6).float().expand(1, 1, 4, 8))
    assert fl.discriminative([off_edge], image).item() == pytest.approx(-1 / 7)
    assert fl.discriminative([on_edge], image).item() == pytest.approx(-math.exp(-1) / 7)


def test_the_convergent_loss_forgives_ramps_and_nothing_else() -> None:
    flat = torch.full((1, 3, 6, 9), 0.5)
    oblique = ramp(6, 9, 0.7) - 0.3 * torch.arange(6.0)[:, None]
    assert fl.convergent([oblique], flat).item() == pytest.approx(0.0, abs=1e-6)
    # x^2 curves by 2 everywhere; x y by 1, in each of the two mixed differences.
    assert fl.convergent([ramp(6, 9, 1.0) ** 2], flat).item() == pytest.approx(2.0)
    assert fl.convergent([ramp(6, 9, 1.0) * torch.arange(6.0)[:, None]], flat).item() == pytest.approx(2.0)


def test_edges_relax_the_convergent_loss_only_where_it_is_asked_for() -> None:
    """A peak of the features on a peak of the image, whose second differences are 1, -2, 1."""
    image, feature = torch.zeros(1, 3, 1, 5), torch.zeros(1, 1, 1, 5)
    image[..., 2], feature[..., 2] = 1.0, 1.0
    assert fl.convergent([feature], image).item() == pytest.approx(4 / 3)
    relaxed = (2 * math.exp(-1) + 2 * math.exp(-2)) / 3
    assert fl.convergent([feature], image, edge_weighted=True).item() == pytest.approx(relaxed)


def test_deeper_levels_count_half_as_much_each() -> None:
    flat = torch.full((1, 3, 16, 16), 0.5)
    levels = [ramp(8, 8, 1.0), ramp(4, 4, 1.0), ramp(2, 2, 1.0)]
    assert fl.discriminative(levels, flat).item() == pytest.approx(-(1 + 1 / 2 + 1 / 4) / 3)


def test_a_reconstruction_is_compared_at_its_own_size() -> None:
    """Stripes of one pixel average to grey at half the size: that is what the smaller map should show."""
    stripes = (torch.arange(8) % 2).float().expand(1, 3, 8, 8)
    grey = torch.full((1, 3, 4, 4), 0.5)
    assert fl.reconstruction(stripes, [stripes, grey]).item() == pytest.approx(0.0)
    assert fl.reconstruction(stripes, [stripes, grey + 0.1]).item() == pytest.approx(0.05, rel=1e-5)
    expected = losses.photometric_error(stripes, 0 * stripes, charbonnier=True).mean().item()
    assert fl.reconstruction(stripes, [0 * stripes], photometric=True, charbonnier=True).item() == pytest.approx(expected)


@pytest.mark.parametrize("charbonnier", [False, True])
def test_an_identity_in_the_features_place_gives_the_photometric_loss_back(charbonnier: bool) -> None:
    """Photometric error less its SSIM part: the features are the images themselves."""
    target, source, depth = torch.rand(1, 3, 12, 20), torch.rand(1, 3, 12, 20), 1 + torch.rand(1, 1, 12, 20)
    K = camera(12, 20)
    warped = warp(source, depth, K, K, aside())
    ssim = losses.ssim_error(warped, target).mean(dim=1, keepdim=True)
    photometric = losses.photometric_error(warped, target, charbonnier)
    error = fl.feature_metric_error(target, source, depth, K, K, aside(), charbonnier)
    torch.testing.assert_close(0.15 * error, photometric - 0.85 * ssim, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_features_match_at_the_true_depth_whatever_their_stride(stride: int) -> None:
    """Every pixel has a depth of its own and sees a ramp of slope 0.3 at u - fx b / D; features are every stride-th pixel.

    A depth that is f times the true one moves by fx b / D (1 - 1 / f) too little.
    """
    depth, K = 2 + torch.rand(1, 1, 16, 64), camera(16, 64)
    disparity = FX * BASELINE / depth
    source = ramp(16, 64, 0.3)
    target = source - 0.3 * disparity
    pair = [f[..., ::stride, ::stride] for f in (target, source)]
    for factor in (1.0, 0.8, 1.5):
        error = fl.feature_metric_error(*pair, factor * depth, K, K, aside())
        expected = 0.3 * disparity[..., ::stride, ::stride] * abs(1 - 1 / factor)
        torch.testing.assert_close(error[..., 4:], expected[..., 4:], atol=1e-4, rtol=1e-3)


def test_on_a_plain_wall_only_the_features_know_where_to_go() -> None:
    """A ramp of slope a moves by fx b / D: |phi_t - phi_s| changes by a fx b / D^2 per metre; a plain image does not."""
    height, width, slope, guess = 8, 32, 0.3, 2.6
    wall, K = torch.full((1, 3, height, width), 0.4), camera(height, width)
    target, source = ramp(height, width, slope), ramp(height, width, slope) + slope * FX * BASELINE / DEPTH

    depth = torch.full((1, 1, height, width), guess, requires_grad=True)
    inside = (..., slice(4, -4))
    losses.photometric_error(warp(wall, depth, K, K, aside()), wall)[inside].sum().backward()
    assert depth.grad.abs().max() < 1e-6

    depth = depth.detach().requires_grad_()
    fl.feature_metric_error(target, source, depth, K, K, aside())[inside].sum().backward()
    pull = slope * FX * BASELINE / guess**2  # towards the smaller, true depth
    torch.testing.assert_close(depth.grad[inside], torch.full((1, 1, height, width - 8), pull), rtol=1e-3, atol=1e-5)


def double(*shape: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64)


def cross_view(target: Tensor, source: Tensor, depth: Tensor, charbonnier: bool) -> Tensor:
    K = camera(8, 10, torch.float64)
    return fl.feature_metric_error(target, source, depth, K, K, aside(torch.float64), charbonnier)


IMAGE = torch.rand(1, 3, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
TERMS: dict[str, tuple[Callable[..., Tensor], list[Tensor]]] = {
    "reconstruction": (lambda m: fl.reconstruction(IMAGE, [m, F.avg_pool2d(m, 2)]), [double(1, 3, 8, 10)]),
    "reconstruction, code": (lambda m: fl.reconstruction(IMAGE, [m], True, True), [double(1, 3, 8, 10)]),
    "discriminative": (lambda f, g: fl.discriminative([f, g], IMAGE), [double(1, 2, 4, 5), double(1, 2, 2, 3)]),
    "convergent": (lambda f: fl.convergent([f], IMAGE), [double(1, 2, 4, 5)]),
    "convergent, code": (lambda f: fl.convergent([f], IMAGE, edge_weighted=True), [double(1, 2, 4, 5)]),
    "feature": (lambda *x: cross_view(*x, False), [double(1, 2, 4, 5), double(1, 2, 4, 5), 1.5 + double(1, 1, 8, 10)]),
    "feature, code": (lambda *x: cross_view(*x, True), [double(1, 2, 8, 10), double(1, 2, 8, 10), 1.5 + double(1, 1, 8, 10)]),
    "smoothness": (lambda d: losses.smoothness(d, IMAGE, "both", 0.5), [0.1 + double(1, 1, 8, 10)]),
    "photometric": (lambda a: losses.photometric_error(a, IMAGE, charbonnier=True), [double(1, 3, 8, 10)]),
}


@pytest.mark.parametrize("name", TERMS)
def test_gradients_agree_with_finite_differences(name: str) -> None:
    term, inputs = TERMS[name]
    assert torch.autograd.gradcheck(term, [x.clone().requires_grad_() for x in inputs])

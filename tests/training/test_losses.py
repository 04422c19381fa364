"""Loss terms against closed forms and brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from training import losses

C1, C2 = 0.01**2, 0.03**2


def ssim_by_loops(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Wang et al. 2004 with 3x3 windows, mirrored at the border, one pixel at a time."""
    error = np.zeros_like(a)
    a, b = np.pad(a, 1, mode="reflect"), np.pad(b, 1, mode="reflect")
    for y, x in np.ndindex(*error.shape):
        p, q = a[y : y + 3, x : x + 3], b[y : y + 3, x : x + 3]
        covariance = ((p - p.mean()) * (q - q.mean())).mean()
        luminance = (2 * p.mean() * q.mean() + C1) / (p.mean() ** 2 + q.mean() ** 2 + C1)
        structure = (2 * covariance + C2) / (p.var() + q.var() + C2)
        error[y, x] = np.clip((1 - luminance * structure) / 2, 0, 1)
    return error


def test_ssim_agrees_with_brute_force() -> None:
    a = torch.rand(2, 3, 7, 9, dtype=torch.float64)
    b = (a + 0.3 * torch.randn_like(a)).clamp(0, 1)
    error = losses.ssim_error(a, b)
    for index in np.ndindex(2, 3):
        assert error[index].numpy() == pytest.approx(ssim_by_loops(a[index].numpy(), b[index].numpy()), abs=1e-9)


def test_photometric_error_of_two_constant_images() -> None:
    a, b = torch.full((1, 3, 6, 6), 0.2), torch.full((1, 3, 6, 6), 0.6)
    ssim = (2 * 0.2 * 0.6 + C1) / (0.2**2 + 0.6**2 + C1)
    expected = 0.85 * (1 - ssim) / 2 + 0.15 * 0.4
    assert losses.photometric_error(a, b).numpy() == pytest.approx(np.full((1, 1, 6, 6), expected), rel=1e-3)


def test_equal_images_have_no_error() -> None:
    image = torch.rand(1, 3, 8, 8)
    assert losses.photometric_error(image, image).abs().max() < 1e-5


def test_the_best_view_counts_and_a_pixel_that_stands_still_gives_no_gradient() -> None:
    """Columns: view 1 fits best; view 2 fits best; neither fits as well as the unwarped view (a car at ego speed)."""
    first = torch.tensor([0.1, 0.5, 0.4]).expand(1, 1, 2, 3).clone().requires_grad_()
    second = torch.tensor([0.3, 0.2, 0.6]).expand(1, 1, 2, 3).clone().requires_grad_()
    identity = [torch.tensor([0.8, 0.9, 0.05]).expand(1, 1, 2, 3), torch.full((1, 1, 2, 3), 0.7)]
    loss = losses.auto_mask(losses.min_reprojection([first, second]), identity).mean()
    assert loss.item() == pytest.approx((0.1 + 0.2 + 0.05) / 3, abs=1e-4)
    loss.backward()
    assert first.grad[0, 0].numpy() == pytest.approx(np.array([[1 / 6, 0.0, 0.0]] * 2))
    assert second.grad[0, 0].numpy() == pytest.approx(np.array([[0.0, 1 / 6, 0.0]] * 2))


def test_without_auto_masking_every_pixel_counts() -> None:
    errors = [torch.tensor([[[[0.1, 0.5]]]]), torch.tensor([[[[0.3, 0.2]]]])]
    assert losses.auto_mask(losses.min_reprojection(errors), []).flatten().tolist() == pytest.approx([0.1, 0.2])


def test_smoothness_of_a_ramp() -> None:
    """0, 1, ..., 7 has slope 1 and mean 3.5: 1 / 3.5, whatever its unit; an image edge of 1 damps its step by exp(-1)."""
    ramp, plain = torch.arange(8.0).expand(1, 1, 5, 8), torch.full((1, 3, 5, 8), 0.5)
    assert losses.smoothness(ramp, plain).item() == pytest.approx(1 / 3.5, rel=1e-5)
    assert losses.smoothness(40 * ramp, plain).item() == pytest.approx(1 / 3.5, rel=1e-5)
    assert losses.smoothness(ramp.transpose(2, 3), plain.transpose(2, 3)).item() == pytest.approx(1 / 3.5, rel=1e-5)
    edge = torch.zeros(1, 3, 5, 8)
    edge[..., 4:] = 1.0
    assert losses.smoothness(ramp, edge).item() == pytest.approx((6 + math.exp(-1)) / 7 / 3.5, rel=1e-5)


def test_velocity_is_the_error_of_the_distance() -> None:
    translation = torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, -2.0]])
    assert losses.velocity(translation, torch.tensor([4.0, 2.5])).item() == pytest.approx((1.0 + 0.5) / 2)


def test_the_likeliest_scale_is_the_mean_absolute_error() -> None:
    error = torch.randn(1, 1, 20, 20).abs()
    best = error.mean().log()
    log_scale = best.clone().requires_grad_()
    nll = losses.laplace_nll(error, log_scale).mean()
    assert nll.item() == pytest.approx(1 + best.item() + math.log(2), rel=1e-5)
    nll.backward()
    assert log_scale.grad.item() == pytest.approx(0.0, abs=1e-4)


def test_the_likelihood_is_that_of_a_distribution() -> None:
    """Its exponential integrates to one over errors of both signs."""
    error = torch.arange(0.0005, 20.0, 0.001)
    density = torch.exp(-losses.laplace_nll(error, torch.tensor(0.3)))
    assert 2 * 0.001 * density.sum().item() == pytest.approx(1.0, abs=1e-3)


def plain_road(height: float, K: Tensor, rows: int = 24, columns: int = 40) -> Tensor:
    """Depth (1, 1, H, W) of level ground `height` below the camera, 100 m in what is above the horizon."""
    v = (torch.arange(rows) - K[0, 1, 2]) / K[0, 1, 1]
    return torch.where(v > 0.02, height / v.clamp(min=0.02), 100.0)[None, None, :, None].expand(1, 1, rows, columns)


ROAD_K = torch.tensor([[[30.0, 0.0, 19.5], [0.0, 30.0, 8.0], [0.0, 0.0, 1.0]]])


@pytest.mark.parametrize("factor", [0.2, 1.0, 3.0])
def test_the_camera_height_is_missed_by_the_logarithm_of_the_factor(factor: float) -> None:
    depth = (factor * plain_road(1.65, ROAD_K)).clone().requires_grad_()
    loss = losses.camera_height(depth, ROAD_K, 1.65)
    assert loss.item() == pytest.approx(abs(math.log(factor)), abs=1e-4)
    if factor != 1.0:
        loss.backward()
        relative = (depth.grad * depth).detach()  # the derivative by log depth: the same at every pixel
        assert relative.numpy() == pytest.approx(np.full(depth.shape, math.copysign(1 / depth.numel(), factor - 1)), rel=1e-4)


def test_images_without_ground_say_nothing_of_the_camera_height() -> None:
    road, wall = 2 * plain_road(1.5, ROAD_K), torch.full((1, 1, 24, 40), 5.0)
    depth = torch.cat([road, wall]).clone().requires_grad_()
    loss = losses.camera_height(depth, ROAD_K.expand(2, 3, 3), 1.5)
    assert loss.item() == pytest.approx(math.log(2), abs=1e-4)
    loss.backward()
    assert depth.grad[1].abs().max() == 0
    alone = losses.camera_height(wall.clone().requires_grad_(), ROAD_K, 1.5)
    assert alone.item() == 0.0


def test_only_valid_pixels_enter_a_mean() -> None:
    values = torch.tensor([[1.0, float("nan"), 5.0]])
    assert losses.masked_mean(values, torch.tensor([[True, False, True]])).item() == 3.0
    assert losses.masked_mean(values, torch.zeros(1, 3, dtype=torch.bool)).item() == 0.0

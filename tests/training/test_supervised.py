"""Supervised depth with a learned sigma, against the Laplace distribution on paper."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from training.batch import Batch
from training.config import ConfigError
from training.methods import Method

Build = Callable[..., Method]


class Constant(nn.Module):
    """In the depth net's place: the same depth [m] and log scale at every pixel, at each of the given scales."""

    def __init__(self, *maps: tuple[float, float]) -> None:
        super().__init__()
        self.maps = maps

    def forward(self, image: Tensor) -> list[Tensor]:
        def fill(depth: float, log_scale: float) -> Tensor:
            disparity = (1 / depth - 1 / 100) / (1 - 1 / 100)
            values = torch.tensor([math.log(disparity / (1 - disparity)), log_scale])
            return values[None, :, None, None].expand(len(image), 2, *image.shape[-2:])

        return [fill(*m) for m in self.maps]


def test_the_loss_is_the_likelihood_of_log_depth_over_measured_pixels(build: Build, street_batch: Batch) -> None:
    """10 m predicted, 15 m true, b = 0.5; a coarser map says 20 m, b = 1; a third map is not asked for."""
    valid = torch.rand(4, 1, 64, 192) < 0.3
    batch = replace(street_batch, depth=torch.where(valid, 15.0, 1.0), valid=valid)
    method = build("supervised", method={"scales": 2})
    method.depth_net = Constant((10.0, math.log(0.5)), (20.0, 0.0), (99.0, 0.0))
    finest = math.log(1.5) / 0.5 + math.log(2 * 0.5)
    coarser = math.log(20 / 15) / 1.0 + math.log(2 * 1.0)
    assert method.losses(batch)["likelihood"].item() == pytest.approx((finest + coarser) / 2, rel=1e-4)


def test_sigma_is_the_deviation_of_the_laplace_distribution(build: Build) -> None:
    method = build("supervised").eval()
    method.depth_net = Constant((10.0, math.log(0.1)))
    depth, sigma = method.predict(torch.rand(1, 3, 64, 192))
    assert depth.mean().item() == pytest.approx(10.0, rel=1e-4)
    assert sigma.mean().item() == pytest.approx(10.0 * 0.1 * math.sqrt(2), rel=1e-4)


@pytest.mark.parametrize(("log_scale", "share"), [(-50.0, math.exp(-5.0)), (50.0, math.exp(1.5))])
def test_sigma_stays_within_reason(build: Build, log_scale: float, share: float) -> None:
    method = build("supervised").eval()
    method.depth_net = Constant((10.0, log_scale))
    assert method.predict(torch.rand(1, 3, 64, 192))[1].mean().item() == pytest.approx(10.0 * share * math.sqrt(2), rel=1e-4)


def test_truth_is_required(build: Build, street_batch: Batch) -> None:
    with pytest.raises(ConfigError, match=r"needs true depth in every batch; use data.source: street"):
        build("supervised").losses(replace(street_batch, depth=None, valid=None))

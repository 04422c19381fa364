"""Mixed precision: the networks' parts in 16 bits, everything between them in 32; overflow is skipped, not fatal."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from training.batch import Batch
from training.config import RunConfig
from training.devices import open_fabric, skips_overflow
from training.methods import Method

Build = Callable[..., Method]


def cpu(precision: str) -> RunConfig:
    return RunConfig(accelerator="cpu", precision=precision)


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_losses_differ_from_32_bits_by_rounding_alone(build: Build, street_batch: Batch, precision: str) -> None:
    """A warp in bfloat16 would miss by pixels; with known poses its loss would be far from that in 32 bits."""
    method, fabric = build("monodepth2", method={"auto_masking": False}).eval(), open_fabric(cpu(precision))
    with torch.no_grad():
        expected = method.losses(street_batch)["photometric"]
        full = method.depth_net(street_batch.input)[0]
        wrapped = fabric.setup_module(method)
        wrapped.mark_forward_method("losses")
        half, loss = wrapped.module.depth_net(street_batch.input)[0], wrapped.losses(street_batch)["photometric"]
    assert half.dtype == loss.dtype == torch.float32
    assert 0 < (half - full).abs().max() < 0.05  # of logits around -2.5
    assert float(loss) == pytest.approx(float(expected), rel=5e-3)


def test_a_gradient_that_overflows_is_skipped_and_the_scale_halved() -> None:
    fabric = open_fabric(cpu("16-mixed"))
    module = nn.Linear(2, 1)
    wrapped, optimizer = fabric.setup(module, torch.optim.SGD(module.parameters(), lr=0.1))
    before, precision = module.weight.detach().clone(), fabric.strategy.precision
    scale = precision.scaler.get_scale()
    assert skips_overflow(precision)
    fabric.backward(wrapped(torch.full((1, 2), 1e38)).sum())
    norm = fabric.clip_gradients(wrapped, optimizer, max_norm=1.0, error_if_nonfinite=False)
    optimizer.step()
    assert not torch.isfinite(norm)
    assert torch.equal(module.weight, before)
    assert precision.scaler.get_scale() == scale / 2
    precision.scaler.load_state_dict(precision.scaler.state_dict() | {"scale": 0.5})
    assert not skips_overflow(precision)  # nothing left to scale down: the overflow is the loss's own


def test_full_precision_skips_nothing() -> None:
    assert not skips_overflow(open_fabric(cpu("32-true")).strategy.precision)

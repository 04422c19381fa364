"""Devices, processes and precision through Lightning Fabric."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision, Precision
from lightning_fabric.strategies import DDPStrategy
from torch import Tensor, nn

from training.config import ConfigError, RunConfig


def open_fabric(run: RunConfig) -> Fabric:
    """Processes and devices: those of torchrun, or run.devices of this machine. Raises ConfigError."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", run.devices))  # set by torchrun
    nodes = int(os.environ.get("WORLD_SIZE", local)) // local if "LOCAL_WORLD_SIZE" in os.environ else 1
    # Not every batch uses every weight: streets need no pose network, fewer scales leave heads alone.
    strategy = DDPStrategy(find_unused_parameters=True) if local * nodes > 1 else "auto"
    try:
        precision = _open_precision(run)
        fabric = Fabric(accelerator=run.accelerator, strategy=strategy, devices=local, num_nodes=nodes, plugins=precision)
    except (ValueError, RuntimeError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"run.accelerator is '{run.accelerator}', run.devices {local}, run.precision '{run.precision}': {reason}"
        ) from error
    fabric.launch()
    return fabric


class NetworkPrecision(MixedPrecision):
    """Fabric's mixed precision (with loss scaling for 16-mixed), narrowed to the parts of each network.

    With 8 bits of mantissa an intrinsic matrix or a rotation moves a pixel by more than a pixel. So batches are not
    converted, and only the parts of a network (encoder, decoder) run under autocast; what they return is 32 bits again.
    """

    def convert_module(self, module: nn.Module) -> nn.Module:
        """Put the parts of each network of a method under autocast."""
        for network in module.children():
            for part in network.children():
                part.forward = self._narrowed(part.forward)
        return module

    def convert_input(self, data: Any) -> Any:
        """Leave a batch as it is."""
        return data

    def forward_context(self) -> AbstractContextManager[None]:
        """Leave losses in 32 bits."""
        return nullcontext()

    def _narrowed(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(forward)
        def run(*inputs: Any, **options: Any) -> Any:
            with torch.autocast(self.device, dtype=self._desired_input_dtype):
                return _to_float(forward(*inputs, **options))

        return run


def skips_overflow(precision: Precision) -> bool:
    """Whether a gradient that overflows is skipped, and the loss scaled down; not once it is no longer scaled up."""
    return getattr(precision, "scaler", None) is not None and loss_scale(precision) >= 1


def loss_scale(precision: Precision) -> float:
    """The factor on losses that keeps 16-bit gradients from vanishing; 1 where there is none."""
    scaler = getattr(precision, "scaler", None)
    return 1.0 if scaler is None else float(scaler.get_scale())


def _open_precision(run: RunConfig) -> Precision:
    """The plugin for run.precision on run.accelerator."""
    if run.precision == "32-true":
        return Precision()
    found = None if run.accelerator == "cpu" else torch.accelerator.current_accelerator()
    return NetworkPrecision(run.precision, device=found.type if found else "cpu")


def _to_float(value: Any) -> Any:
    """The same tensor, list or dict of tensors, in 32 bits."""
    if isinstance(value, dict):
        return {key: _to_float(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_to_float(item) for item in value)
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value

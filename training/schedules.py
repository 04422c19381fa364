"""The learning rate and the average of the weights: pure functions of the step, so that a run resumes without their state."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from training.config import ConfigError, OptimConfig, RunConfig

FINAL_RATE = 0.05  # of the learning rate, at the end of a cosine
AveragingFunction = Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]


def rate_factor(step: int, optim: OptimConfig, run: RunConfig) -> float:
    """Factor on the learning rates at a step (from 0): a linear warm-up, times the schedule.

    cosine: from 1 to FINAL_RATE over run.max_steps (Loshchilov and Hutter, ICLR 2017, without restarts).
    step: drop_factor to the power of the drop_steps that are behind.
    cyclic: run.cycles cosines one after the other (Huang et al., Snapshot Ensembles, ICLR 2017).
    """
    warm = min(1.0, (step + 1) / max(1, optim.warmup_steps))
    if optim.schedule == "step":
        return warm * optim.drop_factor ** sum(step >= drop for drop in optim.drop_steps)
    ends = cycle_ends(run) if optim.schedule == "cyclic" else [run.max_steps]
    cycle = min(sum(step >= end for end in ends), len(ends) - 1)
    first = ends[cycle - 1] if cycle > 0 else 0
    share = min(1.0, (step - first) / (ends[cycle] - first))
    return warm * (FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * share)))


def cycle_ends(run: RunConfig) -> list[int]:
    """Number of steps after which each cycle of the cyclic schedule is over."""
    return [run.max_steps * (cycle + 1) // run.cycles for cycle in range(run.cycles)]


def build_optimizer(method: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over all weights; a pose network and pretrained encoders have learning rates of their own where the config says so.

    The first group has optim.learning_rate. Raises ConfigError for a factor on pretrained weights where there are none.
    """
    pretrained = {p for part in method.modules() if getattr(part, "pretrained", False) for p in part.parameters()}
    if config.pretrained_rate != 1 and not pretrained:
        raise ConfigError(
            f"optim.pretrained_rate is {config.pretrained_rate:g}, but no part of the network has pretrained weights; expected "
            "1, or network.pretrained: imagenet or the path of a state_dict"
        )
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {(False, config.learning_rate): []}
    for name, parameter in method.named_parameters():
        is_pose = name.startswith("pose_net.")
        rate = (config.pose_learning_rate or config.learning_rate) if is_pose else config.learning_rate
        rate *= config.pretrained_rate if parameter in pretrained else 1
        groups.setdefault((is_pose, rate), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": parameters, "lr": rate, "initial_lr": rate} for (_, rate), parameters in groups.items() if parameters],
        weight_decay=config.weight_decay,
    )


def set_rates(optimizer: torch.optim.Optimizer, factor: float) -> float:
    """Set each group's learning rate to `factor` times its own; return the first group's."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
    return float(optimizer.param_groups[0]["lr"])


def moving_average(decay: float) -> AveragingFunction:
    """Exponential moving average whose decay grows to `decay`, so that the random start is soon forgotten."""

    def update(averaged: Sequence[Tensor], current: Sequence[Tensor], count: Tensor | int) -> None:
        weight = 1 - min(decay, (1 + float(count)) / (10 + float(count)))
        for average, value in zip(averaged, current, strict=True):
            if average.is_floating_point():
                average.lerp_(value.to(average.dtype), weight)
            else:  # BatchNorm's counter
                average.copy_(value)

    return update

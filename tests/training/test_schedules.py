"""Learning rates in closed form, and the average of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from training.config import ConfigError, OptimConfig, RunConfig
from training.networks import ENCODERS
from training.schedules import FINAL_RATE, build_optimizer, cycle_ends, moving_average, rate_factor, set_rates

COSINE = OptimConfig(warmup_steps=0)


def test_a_cosine_falls_from_one_to_its_final_rate() -> None:
    run = RunConfig(max_steps=100)
    assert rate_factor(0, COSINE, run) == 1
    assert rate_factor(50, COSINE, run) == pytest.approx((1 + FINAL_RATE) / 2)
    assert rate_factor(25, COSINE, run) == pytest.approx(FINAL_RATE + (1 - FINAL_RATE) * (1 + math.sqrt(0.5)) / 2)
    assert rate_factor(100, COSINE, run) == pytest.approx(FINAL_RATE)


def test_the_warm_up_is_linear_and_its_last_step_has_the_full_rate() -> None:
    optim, run = OptimConfig(schedule="step", warmup_steps=4), RunConfig(max_steps=100)
    assert [rate_factor(step, optim, run) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]


def test_steps_multiply_the_rate_where_they_are() -> None:
    optim = OptimConfig(schedule="step", warmup_steps=0, drop_steps=(3, 5), drop_factor=0.5)
    assert [rate_factor(step, optim, RunConfig(max_steps=7)) for step in range(7)] == [1, 1, 1, 0.5, 0.5, 0.25, 0.25]


def test_cycles_are_equal_cosines_one_after_the_other() -> None:
    optim, run = OptimConfig(schedule="cyclic", warmup_steps=0), RunConfig(max_steps=30, cycles=3)
    rates = [rate_factor(step, optim, run) for step in range(30)]
    assert rates[:10] == rates[10:20] == rates[20:]
    assert rates[:10] == [rate_factor(step, COSINE, RunConfig(max_steps=10)) for step in range(10)]
    assert cycle_ends(run) == [10, 20, 30]


def test_cycles_that_do_not_divide_the_steps_still_end_with_the_run() -> None:
    run = RunConfig(max_steps=11, cycles=3)
    assert cycle_ends(run) == [3, 7, 11]
    starts = [step for step in range(11) if rate_factor(step, OptimConfig(schedule="cyclic", warmup_steps=0), run) == 1]
    assert starts == [0, 3, 7]


def test_the_pose_network_has_a_rate_of_its_own() -> None:
    method = nn.ModuleDict({"depth_net": nn.Linear(2, 2), "pose_net": nn.Linear(3, 1)})
    for own, expected in ((0.0, 0.4), (0.1, 0.1)):
        optimizer = build_optimizer(method, OptimConfig(learning_rate=0.4, pose_learning_rate=own))
        rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
        assert {rates[id(p)] for p in method["depth_net"].parameters()} == {0.4}
        assert {rates[id(p)] for p in method["pose_net"].parameters()} == {expected}
        assert set_rates(optimizer, 0.5) == 0.2
        assert [group["lr"] for group in optimizer.param_groups] == [0.2, expected / 2]
        assert set_rates(optimizer, 1.0) == 0.4  # a factor on the group's own rate, not on the one of the step before


@pytest.fixture
def weights(tmp_path: Path, tiny_encoder: None) -> Path:
    """Pretrained ones of the encoder `tiny`."""
    torch.save(ENCODERS["tiny"]().state_dict(), tmp_path / "tiny.pth")
    return tmp_path / "tiny.pth"


@pytest.mark.parametrize(("factor", "pose"), [(1.0, 0.0), (0.1, 0.2), (0.5, 0.2)])
def test_pretrained_encoders_have_a_factor_on_their_rate(
    build: Callable[..., nn.Module], weights: Path, factor: float, pose: float
) -> None:
    """On the pose network's own rate, where it has one; a FeatureNet's own encoder is new. The logged rate is of what is new."""
    network = {"encoder": "tiny", "pretrained": str(weights)}
    method = build("featdepth", network=network, feature={"encoder": "tiny"}, data={"known_poses": False})
    config = OptimConfig(learning_rate=0.4, pose_learning_rate=pose, pretrained_rate=factor)
    optimizer = build_optimizer(method, config)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert len(rates) == len(list(method.parameters()))
    for part, rate in (
        (method.depth_net.encoder, 0.4 * factor),
        (method.depth_net.decoder, 0.4),
        (method.pose_net.encoder, (pose or 0.4) * factor),
        (method.pose_net.decoder, pose or 0.4),
        (method.feature_net, 0.4),
    ):
        assert [rates[id(p)] for p in part.parameters()] == pytest.approx([rate] * len(list(part.parameters())))
    assert set_rates(optimizer, 1.0) == 0.4


def test_a_factor_on_nothing_is_refused(build: Callable[..., nn.Module], tiny_encoder: None) -> None:
    method = build("midas", network={"encoder": "tiny", "pretrained": "none"})
    message = r"optim.pretrained_rate is 0.1, but no part .* has pretrained weights; expected 1, or network.pretrained"
    with pytest.raises(ConfigError, match=message):
        build_optimizer(method, OptimConfig(pretrained_rate=0.1))
    build_optimizer(method, OptimConfig())


def test_the_average_follows_a_step_and_ends_at_its_decay() -> None:
    """After n updates the weight of the newest is 1 - min(decay, (1 + n) / (10 + n))."""
    for count, weight in ((1, 9 / 11), (10, 9 / 20), (10_000, 0.01)):
        average, counter = torch.zeros(3), torch.tensor(0)
        moving_average(0.99)([average, counter], [torch.ones(3), torch.tensor(5)], count)
        assert average.tolist() == pytest.approx([weight] * 3)
        assert counter == 5

"""What ends a run early: signals in a real process, losses and gradients that are not finite, collapsed depth."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from trainer_runs import ROOT

from training.batch import Batch
from training.guards import PATIENCE, TrainingError, check_collapse, check_gradient, check_loss, find_collapse

WAITING = """
import time
from training.guards import StopRequest
with StopRequest() as stop:
    print("ready", flush=True)
    while not stop.signum:
        time.sleep(0.01)
    print(stop.signum, flush=True)
    {then}
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_ends_at_once(number: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING.format(then="time.sleep(60)")], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    with process.stdout as out:
        assert out.readline() == "ready\n"
        process.send_signal(number)
        assert out.readline() == f"{number}\n"
        assert process.poll() is None
        process.send_signal(number)
        assert process.wait(30) == -number


def test_a_loss_that_is_not_finite_names_step_and_term() -> None:
    check_loss({"photometric": 0.1, "smoothness": -2.0}, 7, "")
    for value in (math.nan, math.inf, -math.inf):
        with pytest.raises(TrainingError, match=r"^step 7: the loss is not finite in smoothness \(photometric 0.1, smoothness"):
            check_loss({"photometric": 0.1, "smoothness": value}, 7, "runs/a/last.ckpt is from before")


def test_a_gradient_that_is_not_finite_names_the_step() -> None:
    check_gradient(3.0, 7, "")
    with pytest.raises(TrainingError, match=r"step 7: the loss is finite, but the norm of its gradient is inf; lower .*; kept"):
        check_gradient(math.inf, 7, "kept")


@pytest.mark.parametrize(
    ("figures", "reason"),
    [
        ({"near": 0.97, "far": 0.5, "contrast": 0.1}, ""),
        ({"near": 0.99, "far": 0.0, "contrast": 0.1}, "almost the whole depth map is at network.min_depth (near 0.99)"),
        ({"far": 1.0, "contrast": 0.1}, "almost the whole depth map is at network.max_depth (far 1)"),
        ({"contrast": 1e-5, "parallax": 2.0}, "the depth map is flat (contrast 1e-05)"),
        ({"contrast": 0.1, "parallax": 1e-4}, "the learned camera does not move (parallax 0.0001)"),
        ({"contrast": math.nan}, "the depth map is flat (contrast nan)"),
    ],
)
def test_collapse_is_told_by_its_figures(figures: dict[str, float], reason: str) -> None:
    assert find_collapse(figures) == reason


def test_only_a_collapse_that_lasts_ends_the_run() -> None:
    check_collapse("flat", PATIENCE - 1, 9, "")
    with pytest.raises(TrainingError, match=rf"step 9: collapsed for {PATIENCE} validations in a row: flat, .*; kept"):
        check_collapse("flat", PATIENCE, 9, "kept")


@pytest.mark.parametrize("name", ["monodepth2", "supervised", "self_teaching"])
def test_every_untrained_method_is_healthy_and_a_saturated_one_is_not(build, street_batch: Batch, name: str) -> None:
    method = build(name).eval()
    with torch.no_grad():
        assert find_collapse({k: float(v) for k, v in method.health(street_batch).items()}) == ""
        for bias, figure in ((20.0, "near"), (-20.0, "far")):  # the sigmoid's ends
            for head in method.depth_net.decoder.heads.values():
                head.bias[:1] = bias
            health = {k: float(v) for k, v in method.health(street_batch).items()}
            assert health[figure] == 1
            assert health["contrast"] < 1e-3
            assert "almost the whole depth map is at" in find_collapse(health)


def test_a_pose_network_without_translation_is_not_healthy(build, street_batch: Batch) -> None:
    """Parallax is fx |t| / depth [px]: set the pose network's last layer to a translation of (0, 0, 2) m."""
    method = build("monodepth2", data={"known_poses": False}).eval()
    unknown = replace(street_batch, views=tuple(replace(v, source_T_target=None) for v in street_batch.views))
    last = method.pose_net.decoder[-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.zero_()
        assert "the learned camera does not move" in find_collapse({k: float(v) for k, v in method.health(unknown).items()})
        last.bias[5] = 2.0 / 0.1  # PoseNet's scale of translations
        inverse = float((1 / method.to_depth(method.depth_net(unknown.image)[0])).mean())
        assert float(method.health(unknown)["parallax"]) == pytest.approx(float(unknown.K[0, 0, 0]) * 2.0 * inverse, rel=1e-4)

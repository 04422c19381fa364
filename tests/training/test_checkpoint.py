"""Checkpoints: nothing is lost when writing fails, and a run only goes on from its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from training.checkpoint import Progress, load_checkpoint, load_method, save_checkpoint
from training.config import ConfigError, TrainConfig
from training.methods import Method

Build = Callable[..., Method]


class Unwritable(nn.Module):
    """Fails half-way through writing, as a full disk does."""

    def get_extra_state(self) -> Any:
        return lambda: None


def parts(method: Method) -> dict[str, Any]:
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-3)
    return {"method": method, "average": AveragedModel(method, use_buffers=True), "optimizer": optimizer}


def test_a_run_goes_on_where_it_was(tmp_path: Path, build: Build) -> None:
    state = parts(build("supervised"))
    sum(p.sum() for p in state["method"].parameters()).backward()
    state["optimizer"].step()
    config = state["method"].config
    save_checkpoint(tmp_path / "last.ckpt", state, config, step=7, best=0.5, collapsed=2)

    fresh = parts(build("supervised"))
    assert load_checkpoint(tmp_path / "last.ckpt", fresh, config) == Progress(step=7, best=0.5, collapsed=2)
    for name in ("method", "average"):
        pairs = zip(state[name].state_dict().values(), fresh[name].state_dict().values(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    moments = [next(iter(s["optimizer"].state.values()))["exp_avg"] for s in (state, fresh)]
    assert torch.equal(*moments)


def test_the_first_run_starts_at_nothing(tmp_path: Path, build: Build) -> None:
    method = build("supervised")
    assert load_checkpoint(tmp_path / "last.ckpt", parts(method), method.config) == Progress(0, float("inf"), 0)


def test_writing_that_fails_leaves_the_last_checkpoint_whole(tmp_path: Path, build: Build) -> None:
    state = parts(build("supervised"))
    config, path = state["method"].config, tmp_path / "last.ckpt"
    save_checkpoint(path, state, config, step=3, best=1.0)
    with pytest.raises(AttributeError):
        save_checkpoint(path, {**state, "extra": Unwritable()}, config, step=6, best=0.9)
    assert load_checkpoint(path, state, config) == Progress(3, 1.0)


@pytest.mark.parametrize(
    ("section", "changes", "text"),
    [
        ("data", {"width": 96}, "data.width 192, not 96"),
        ("method", {"scales": 1}, "method.scales 3, not 1"),
        ("network", {"min_depth": 0.5}, "network.min_depth 1.0, not 0.5"),
        ("optim", {"batch_size": 3}, "optim.batch_size 2, not 3"),
        ("run", {"seed": 1}, "run.seed 0, not 1"),
        ("run", {"precision": "bf16-mixed"}, "run.precision 32-true, not bf16-mixed"),
    ],
)
def test_another_configuration_does_not_go_on_from_this_run(
    tmp_path: Path, build: Build, section: str, changes: dict[str, Any], text: str
) -> None:
    state = parts(build("supervised"))
    config, path = state["method"].config, tmp_path / "last.ckpt"
    save_checkpoint(path, state, config, step=3, best=1.0)
    other: TrainConfig = replace(config, **{section: replace(getattr(config, section), **changes)})
    with pytest.raises(ConfigError, match=rf"last.ckpt: was made with {text}; choose another run.dir"):
        load_checkpoint(path, state, other)


def test_what_decides_no_step_that_is_done_may_change(tmp_path: Path, build: Build) -> None:
    """A longer run, on another machine."""
    state = parts(build("supervised"))
    config, path = state["method"].config, tmp_path / "last.ckpt"
    save_checkpoint(path, state, config, step=3, best=1.0)
    run = replace(config.run, max_steps=99_999, dir="elsewhere", devices=2, validate_every=7)
    moved = replace(config, run=run, data=replace(config.data, root="/mnt", workers=5))
    assert load_checkpoint(path, state, moved) == Progress(3, 1.0)


def test_a_checkpoint_of_weights_alone_is_no_run_to_go_on_with(tmp_path: Path, build: Build) -> None:
    state = parts(build("supervised"))
    save_checkpoint(tmp_path / "last.ckpt", {"average": state["average"]}, state["method"].config, 3, 1.0)
    with pytest.raises(ConfigError, match=r"last.ckpt: holds no method, optimizer; expected a last.ckpt of this version"):
        load_checkpoint(tmp_path / "last.ckpt", state, state["method"].config)


@pytest.mark.parametrize("name", ["monodepth2", "supervised", "self_teaching"])
def test_a_method_comes_back_with_its_averaged_weights(tmp_path: Path, build: Build, name: str) -> None:
    state = parts(build(name))
    with torch.no_grad():
        for parameter in state["method"].parameters():
            parameter.add_(0.01)  # training is ahead of its average
    save_checkpoint(tmp_path / "best.ckpt", {"average": state["average"]}, state["method"].config, 3, 1.0)
    method, image = load_method(tmp_path / "best.ckpt"), torch.rand(1, 3, 64, 192)
    assert not method.training
    assert method.focal.tolist() == state["method"].focal.tolist()
    with torch.no_grad():
        assert torch.equal(method.predict(image)[0], state["average"].module.eval().predict(image)[0])


def test_files_that_are_no_checkpoint(tmp_path: Path, build: Build) -> None:
    whole, state = tmp_path / "whole.ckpt", parts(build("supervised"))
    save_checkpoint(whole, state, state["method"].config, 3, 1.0)
    cut, text, weights = (tmp_path / name for name in ("cut.ckpt", "notes.txt", "weights.pt"))
    cut.write_bytes(whole.read_bytes()[:5000])
    text.write_text("no checkpoint")
    torch.save({"conv.weight": torch.zeros(3)}, weights)
    for path, message in (
        (
            tmp_path / "nowhere.ckpt",
            f"nowhere.ckpt: no such checkpoint; another run writes it: first train the YAML whose run.dir is {tmp_path}",
        ),
        (cut, "cut.ckpt: cannot be read as a checkpoint"),
        (text, "notes.txt: cannot be read as a checkpoint"),
        (weights, "weights.pt: holds no averaged weights with their config"),
    ):
        with pytest.raises(ConfigError, match=message) as error:
            load_method(path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(("light", "decoder"), [(True, "light"), (False, "monodepth2")])
def test_checkpoints_from_before_the_table_of_decoders_still_load(
    tmp_path: Path, build: Build, light: bool, decoder: str
) -> None:
    path = tmp_path / "best.ckpt"
    method = build("supervised", network={"decoder": decoder})
    save_checkpoint(path, parts(method), method.config, step=1, best=1.0)
    stored = torch.load(path, weights_only=True)
    del stored["config"]["network"]["decoder"]
    stored["config"]["network"]["light_decoder"] = light
    torch.save(stored, path)
    loaded = load_method(path)
    assert loaded.config.network.decoder == decoder
    assert all(torch.equal(a, b) for a, b in zip(method.parameters(), loaded.parameters(), strict=True))
    assert load_checkpoint(path, parts(loaded), method.config).step == 1

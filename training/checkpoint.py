"""Checkpoints: one file with weights and configuration, written atomically; and the methods that start from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeVar

import torch

from training.config import ConfigError, TrainConfig, merge, override, to_dict
from training.methods import TAUGHT, Learner, Method, Predictor, Taught, build_method, method_type
from training.teacher_bundle import load_teacher_bundle
from training.uncertainty import build_uncertainty

AnyPredictor = TypeVar("AnyPredictor", bound=Predictor)

# What may differ when a run goes on: none of these decides a step that is already done.
FREE_KEYS = (
    "run.dir", "run.max_steps", "run.keep", "run.log_every", "run.validate_every", "run.accelerator", "run.devices",
    "data.root", "data.workers",
)  # fmt: skip


@dataclass
class Progress:
    """How far a run is."""

    step: int = 0  # done
    best: float = float("inf")  # validation loss so far
    collapsed: int = 0  # validations in a row that found a collapse


def save_checkpoint(path: Path, state: dict[str, Any], config: TrainConfig, step: int, best: float, collapsed: int = 0) -> None:
    """Write the state_dict of everything in `state`, then rename: a reader never sees half a file."""
    values = {name: item.state_dict() for name, item in state.items()}
    progress = asdict(Progress(step, best, collapsed))
    temporary = path.with_suffix(".tmp")
    torch.save({**values, "config": to_dict(config), **progress}, temporary)
    temporary.replace(path)


def load_checkpoint(path: Path, state: dict[str, Any], config: TrainConfig) -> Progress:
    """Load a run's own checkpoint into `state`; return how far the run is.

    Raises ConfigError if the run was started with another configuration.
    """
    if not path.is_file():
        return Progress()
    stored = read_checkpoint(path)
    before, now = _flat(to_dict(_config_of(stored, path))), _flat(to_dict(config))
    for key, value in now.items():
        if value != before[key] and key not in FREE_KEYS:
            raise ConfigError(
                f"{path}: was made with {key} {before[key]}, not {value}; choose another run.dir or delete the folder"
            )
    missing = {*state, *(f.name for f in fields(Progress))} - stored.keys()
    if missing:
        raise ConfigError(
            f"{path}: holds no {', '.join(sorted(missing))}; expected a last.ckpt of this version: choose another run.dir"
        )
    for name, item in state.items():
        item.load_state_dict(stored[name])
    return Progress(**{f.name: stored[f.name] for f in fields(Progress)})


def _config_of(stored: dict[str, Any], path: Path) -> TrainConfig:
    """The configuration of a checkpoint; one from before network.decoder says network.light_decoder."""
    network = dict(stored["config"].get("network", {}))
    if "light_decoder" in network:
        network["decoder"] = "light" if network.pop("light_decoder") else "monodepth2"
    config: TrainConfig = merge(TrainConfig(), {**stored["config"], "network": network}, str(path))
    return config


def _flat(config: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {f"{section}.{key}": value for section, values in config.items() for key, value in values.items()}


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What save_checkpoint() stored. Raises ConfigError if the file is no such checkpoint."""
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, UnpicklingError, EOFError, OSError) as error:
        raise ConfigError(
            f"{path}: cannot be read as a checkpoint; expected a last.ckpt or best.ckpt of training.train"
        ) from error
    if not isinstance(stored, dict) or not {"average", "config", "step"} <= stored.keys():
        raise ConfigError(
            f"{path}: holds no averaged weights with their config; expected a last.ckpt or best.ckpt of training.train"
        )
    return stored


def load_method(path: Path | str, changes: Sequence[str] = ()) -> Learner:
    """Rebuild a trained method with its averaged weights, ready for prediction.

    `changes` like `method.sigma=flip` choose anew what the weights leave open, Learner.choices. Raises ConfigError.
    """
    if not Path(path).is_file():
        raise ConfigError(
            f"{path}: no such checkpoint; another run writes it: first train the YAML whose run.dir is {Path(path).parent}"
        )
    stored = read_checkpoint(Path(path))
    config = _chosen(_config_of(stored, Path(path)), changes, Path(path))
    method = build_method(merge(config, {"network": {"pretrained": "none"}}, str(path)))
    prefix = "module."
    weights = {k.removeprefix(prefix): v for k, v in stored["average"].items() if k.startswith(prefix)}
    method.load_state_dict(weights)
    return method.eval()


def _chosen(trained: TrainConfig, changes: Sequence[str], path: Path) -> TrainConfig:
    """The configuration with what is chosen after training. Raises ConfigError."""
    config, kind = override(trained, changes), method_type(trained)
    idle = kind.idle_choices(config)
    for change in changes:
        key = change.partition("=")[0]
        if key not in kind.choices:
            raise ConfigError(
                f"--set {change}: training has decided it; of {path} (method {trained.method.name}) may be chosen: "
                f"{', '.join(kind.choices) or 'nothing'}"
            )
        if key in idle:
            raise ConfigError(f"--set {change}: changes nothing of {path}, because {idle[key]}; leave it out")
    if issubclass(kind, Method):
        before, now = (c.method.sigma or kind.default_sigma for c in (trained, config))
        if not build_uncertainty(now).serves(build_uncertainty(before)):
            raise ConfigError(f"method.sigma is '{now}', but the network of {path} was trained for '{before}'; train another run")
    return config


def prepare_method(config: TrainConfig, focal: tuple[float, float]) -> Learner:
    """Build a run's method for a camera of `focal` (fx, fy) [px], with what it starts from: run.init, run.refine, teachers.

    Raises ConfigError.
    """
    method = build_method(config)
    method.focal.copy_(torch.tensor(focal))
    if config.run.init and config.run.refine:
        raise ConfigError("run.init and run.refine are both set; expected one place to start from")
    if config.method.teachers and not isinstance(method, Taught):
        raise ConfigError(
            f"method.teachers names {len(config.method.teachers)}, but method.name is '{config.method.name}', which learns from "
            f"none; expected it empty, or a method that learns from teachers: {', '.join(TAUGHT)}"
        )
    if config.run.refine:
        _go_on(method, config.run.refine)
    elif config.run.init:
        _initialise(method, _load_offline(config.run.init))
    method.prepare(partial(_load_trained, config))
    return method


def _load_trained(config: TrainConfig, path: str) -> Predictor:
    """What a run learns from: a checkpoint, or the bundle in a folder; not one that has seen the images it will be judged by.

    Raises ConfigError.
    """
    is_checkpoint = Path(path).is_file() or Path(path).suffix == ".ckpt"
    found = load_method(path) if is_checkpoint else load_teacher_bundle(Path(path), config.data)
    return found if config.run.refine else _unrefined(found, path)


def _load_offline(path: str) -> Learner:
    """A trained method that has not seen the images it will be judged by. Raises ConfigError."""
    return _unrefined(load_method(path), path)


def _unrefined(trained: AnyPredictor, path: str) -> AnyPredictor:
    if trained.refined:
        raise ConfigError(
            f"{path} was refined online, and what starts from it would be too; expected a checkpoint without run.refine"
        )
    return trained


def _go_on(method: Learner, path: str) -> None:
    """Take all weights of a trained method. Raises ConfigError."""
    other = load_method(path)
    try:
        method.load_state_dict(other.state_dict())
    except RuntimeError as error:
        raise ConfigError(
            f"run.refine: {path} (method {other.config.method.name}) has other networks than this run "
            f"(method {method.config.method.name}); expected the YAML it was trained with"
        ) from error


def _initialise(method: Learner, other: Learner) -> None:
    """Take the weights of another run's depth network, wherever name and shape agree (heads may differ in their outputs)."""
    for learner in (method, other):
        if not isinstance(learner, Method):
            raise ConfigError(
                f"run.init: method {learner.config.method.name} has no depth network; expected methods that have one"
            )
    own = method.depth_net.state_dict()
    matching = {k: v for k, v in other.depth_net.state_dict().items() if k in own and v.shape == own[k].shape}
    for name, value in other.depth_net.state_dict().items():
        if name in own and name not in matching:  # a head: the disparity comes first, a log sigma after it
            outputs = min(len(value), len(own[name]))
            matching[name] = torch.cat([value[:outputs], own[name][outputs:]])
    method.depth_net.load_state_dict(own | matching)

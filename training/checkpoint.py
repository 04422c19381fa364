"""Checkpoints: one file with weights and configuration, written atomically."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from training.config import ConfigError, TrainConfig, merge, to_dict
from training.methods import Method, build_method

SECTIONS_THAT_MUST_AGREE = ("data", "method", "network", "optim")


def save_checkpoint(path: Path, state: dict[str, Any], config: TrainConfig, step: int, best: float) -> None:
    """Write the state_dict of everything in `state`, then rename: a reader never sees half a file."""
    values = {name: item.state_dict() for name, item in state.items()}
    temporary = path.with_suffix(".tmp")
    torch.save({**values, "config": to_dict(config), "step": step, "best": best, "rng": torch.get_rng_state()}, temporary)
    temporary.replace(path)


def load_checkpoint(path: Path, state: dict[str, Any], config: TrainConfig) -> tuple[int, float]:
    """Load a run's own checkpoint into `state`; return its step and best validation loss, (0, inf) where there is none.

    Raises ConfigError if the run was started with another configuration.
    """
    if not path.is_file():
        return 0, float("inf")
    stored = read_checkpoint(path)
    for section in SECTIONS_THAT_MUST_AGREE:
        if stored["config"][section] != to_dict(config)[section]:
            raise ConfigError(f"{path}: was made with another '{section}' section; choose another run.dir or delete the folder")
    for name, item in state.items():
        item.load_state_dict(stored[name])
    torch.set_rng_state(stored["rng"])
    return int(stored["step"]), float(stored["best"])


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


def load_method(path: Path | str) -> Method:
    """Rebuild a trained method with its averaged weights, ready for prediction. Raises ConfigError."""
    if not Path(path).is_file():
        raise ConfigError(
            f"{path}: no such checkpoint; another run writes it: first train the YAML whose run.dir is {Path(path).parent}"
        )
    stored = read_checkpoint(Path(path))
    config: TrainConfig = merge(TrainConfig(), stored["config"], str(path))
    method = build_method(merge(config, {"network": {"pretrained": "none"}}, str(path)))
    prefix = "module."
    weights = {k.removeprefix(prefix): v for k, v in stored["average"].items() if k.startswith(prefix)}
    method.load_state_dict(weights)
    return method.eval()

"""Train a method: `python -m training.train config/train/monodepth2.yaml --set run.max_steps=100`.

One batch, six steps: read, collate, augment, losses, backward and step, and every so often log, validate, checkpoint.
A run with a checkpoint in its folder goes on from there.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning_fabric import Fabric, seed_everything
from lightning_fabric.loggers import TensorBoardLogger
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from depth_ros.types import InputError
from training.batch import Batch, to_device
from training.checkpoint import load_checkpoint, load_method, save_checkpoint
from training.config import ConfigError, OptimConfig, RunConfig, TrainConfig, load_config, to_dict
from training.data.augment import augment
from training.data.loading import build_sources, training_batches, validation_batches
from training.methods import Method, build_method

FINAL_RATE = 0.05  # of the learning rate, at the end of the cosine


class TrainingError(Exception):
    """A run that cannot go on; the text says why and what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="training.train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="YAML of differences from the defaults in training/config.py")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override one value; repeatable")
    options = parser.parse_args(arguments)
    try:
        train(load_config(options.config, options.set))
    except (ConfigError, InputError, TrainingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; run the same command again to go on from the last checkpoint", file=sys.stderr)
        return 130
    return 0


def train(config: TrainConfig) -> Path:
    """Run a training to its last step; return the path of the best checkpoint.

    Raises TrainingError, ConfigError or InputError.
    """
    folder = Path(config.run.dir)
    folder.mkdir(parents=True, exist_ok=True)
    run = config.run
    fabric = _open_fabric(run)
    seed_everything(run.seed, verbose=False)
    sources = build_sources(config.data, run.seed)
    method = _prepare_method(config, (sources.camera.fx, sources.camera.fy))
    method.to(fabric.device)  # before the optimiser's state is loaded, which goes to where its parameters are
    optimizer, scheduler = _build_optimizer(method, config.optim, run.max_steps)
    average = AveragedModel(method, multi_avg_fn=_moving_average(config.optim.ema), use_buffers=True)
    state: dict[str, Any] = {"method": method, "average": average, "optimizer": optimizer, "scheduler": scheduler}
    start, best = load_checkpoint(folder / "last.ckpt", state, config)
    if start == 0:
        (folder / "config.yaml").write_text(yaml.safe_dump(to_dict(config), sort_keys=False), encoding="utf-8")
    method, optimizer = fabric.setup(method, optimizer)
    method.mark_forward_method("losses")
    batches = training_batches(sources, config, start)
    progress = tqdm(
        range(start, run.max_steps),
        initial=start,
        total=run.max_steps,
        desc=folder.name,
        disable=not fabric.is_global_zero,
        mininterval=0.2 if sys.stderr.isatty() else 30,
    )
    for step in progress:
        terms = _step(fabric, method, optimizer, augment(to_device(next(batches), fabric.device), config.data), config.optim)
        scheduler.step()
        average.update_parameters(method.module)
        if (step + 1) % run.log_every == 0:
            fabric.log_dict({f"train/{name}": value for name, value in terms.items()}, step + 1)
            progress.set_postfix({name: f"{value:.4f}" for name, value in terms.items()})
        if (step + 1) % run.validate_every == 0 or step + 1 == run.max_steps:
            loss = validate(average.module, validation_batches(sources, config.optim.batch_size), fabric.device)
            fabric.log("val/loss", loss, step + 1)
            progress.write(f"step {step + 1}: validation loss {loss:.4f}")
            save_checkpoint(folder / "last.ckpt", state, config, step + 1, min(best, loss))
            if loss < best:
                best = loss
                save_checkpoint(folder / "best.ckpt", {"average": average}, config, step + 1, best)
    return folder / "best.ckpt"


def validate(method: Method, batches: Iterable[Batch], device: torch.device) -> float:
    """Mean total loss over the validation batches, without augmentation."""
    method.eval()
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)  # the tie-breaking noise of the auto-mask; training's own random numbers go on as they were
        totals = [sum(method.losses(to_device(batch, device)).values()) for batch in batches]
    return float(torch.stack(totals).mean())


def _step(fabric: Fabric, method: Any, optimizer: Any, batch: Batch, config: OptimConfig) -> dict[str, float]:
    method.train()
    terms = method.losses(batch)
    total = sum(terms.values())
    if not torch.isfinite(total):
        values = ", ".join(f"{name} {value.item():g}" for name, value in terms.items())
        raise TrainingError(f"the loss is not finite ({values}); lower optim.learning_rate or check the calibration and poses")
    optimizer.zero_grad(set_to_none=True)
    fabric.backward(total)
    fabric.clip_gradients(method, optimizer, max_norm=config.clip_norm)
    optimizer.step()
    return {name: float(value.detach()) for name, value in terms.items()}


def _open_fabric(run: RunConfig) -> Fabric:
    logger = TensorBoardLogger(root_dir=run.dir, name="", version="curves")
    try:
        fabric = Fabric(accelerator=run.accelerator, devices=run.devices, precision=run.precision, loggers=logger)
    except (ValueError, RuntimeError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"run.accelerator is '{run.accelerator}', run.precision '{run.precision}': {reason}") from error
    fabric.launch()
    return fabric


def _prepare_method(config: TrainConfig, focal: tuple[float, float]) -> Method:
    method = build_method(config)
    method.focal.copy_(torch.tensor(focal))
    if config.run.init:
        _initialise(method, load_method(config.run.init))
    method.prepare(load_method)
    return method


def _initialise(method: Method, other: Method) -> None:
    """Take the weights of another run's depth network, wherever name and shape agree (heads may differ in their outputs)."""
    own = method.depth_net.state_dict()
    matching = {k: v for k, v in other.depth_net.state_dict().items() if k in own and v.shape == own[k].shape}
    for name, value in other.depth_net.state_dict().items():
        if name in own and name not in matching:  # a head: the disparity comes first, a log sigma after it
            outputs = min(len(value), len(own[name]))
            matching[name] = torch.cat([value[:outputs], own[name][outputs:]])
    method.depth_net.load_state_dict(own | matching)


def _moving_average(decay: float) -> Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]:
    """Exponential moving average whose decay grows to `decay`, so that the random start is soon forgotten."""

    def update(averaged: Sequence[Tensor], current: Sequence[Tensor], count: Tensor | int) -> None:
        weight = 1 - min(decay, (1 + float(count)) / (10 + float(count)))
        for average, value in zip(averaged, current, strict=True):
            if average.is_floating_point():
                average.lerp_(value.to(average.dtype), weight)
            else:  # BatchNorm's counter
                average.copy_(value)

    return update


def _build_optimizer(method: Method, config: OptimConfig, max_steps: int) -> tuple[torch.optim.Optimizer, Any]:
    optimizer = torch.optim.AdamW(method.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)

    def rate(step: int) -> float:
        warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / max_steps)))
        return warm * (FINAL_RATE + (1 - FINAL_RATE) * cosine)

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, rate)


if __name__ == "__main__":
    sys.exit(main())

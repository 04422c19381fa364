"""Train a method: `python -m training.train config/train/monodepth2.yaml --set run.max_steps=100`.

One batch, six steps: read, collate, augment, losses, backward and step, and every so often log, validate, checkpoint.
A run with a checkpoint in its folder goes on from there, on the very curve that it left: every random draw of a step is a
function of the seed and the step. Several GPUs: run.devices, or torchrun for several machines.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric, seed_everything
from lightning_fabric.utilities.rank_zero import rank_zero_only
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from depth_ros.memory import keep_freed_memory
from depth_ros.types import InputError
from training.batch import Batch, to_device
from training.checkpoint import load_checkpoint, prepare_method, save_checkpoint
from training.config import ConfigError, TrainConfig, load_config
from training.data.augment import augment
from training.data.loading import Sources, build_sources, training_batches, validation_batches
from training.devices import open_fabric, skips_overflow
from training.guards import StoppedError, StopRequest, TrainingError, check_collapse, check_gradient, check_loss, find_collapse
from training.methods import Learner
from training.mixing import MIXINGS
from training.record import Record
from training.schedules import build_optimizer, cycle_ends, moving_average, rate_factor, set_rates


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code: 0, 1 for an error, 130 after Ctrl-C, 143 after SIGTERM."""
    parser = argparse.ArgumentParser(
        prog="training.train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="YAML of differences from the defaults in training/config.py")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override one value; repeatable")
    parser.add_argument("--loader-only", type=int, metavar="N", help="read N training batches, print the rate, train nothing")
    options = parser.parse_args(arguments)
    keep_freed_memory()
    try:
        config = load_config(options.config, options.set)
        if options.loader_only is not None:
            print(measure_loader(config, options.loader_only))
        else:
            train(config)
    except TrainingError as error:  # raised by all processes alike
        return _leave(f"error: {error}", 1)
    except StoppedError as stop:
        return _leave(f"{stop}; run the same command again to go on", 128 + stop.signum)
    except (ConfigError, InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped before a step was done; run the same command again", file=sys.stderr)
        return 130
    return 0


def _leave(text: str, code: int) -> int:
    """Of several processes one says why the run ends; a failed child would have it killed before it could."""
    if rank_zero_only.rank:
        return 0
    print(text, file=sys.stderr)
    return code


def train(config: TrainConfig) -> Path:
    """Run a training to its last step; return the path of the best checkpoint.

    Raises TrainingError, ConfigError, InputError, or StoppedError after SIGINT or SIGTERM, with the state saved.
    """
    fabric = open_fabric(config.run)
    seed_everything(config.run.seed, verbose=False)
    sources = build_sources(config.data, config.run.seed)
    if sources.skipped:
        fabric.print(f"{sources.skipped} images are left out for want of a neighbour")
    trainer = Trainer(config, fabric, prepare_method(config, (sources.camera.fx, sources.camera.fy)))
    with StopRequest() as stop:
        trainer.run(sources, stop)
    return trainer.folder / "best.ckpt"


class Trainer:
    """The state of a run and its one loop."""

    def __init__(self, config: TrainConfig, fabric: Fabric, method: Learner) -> None:
        self.config, self.fabric, self.folder = config, fabric, Path(config.run.dir)
        self.folder.mkdir(parents=True, exist_ok=True)
        method.to(fabric.device)  # before the optimiser's state is loaded, which goes to where its parameters are
        optimizer = build_optimizer(method, config.optim)
        self.average = AveragedModel(method, multi_avg_fn=moving_average(config.optim.ema), use_buffers=True)
        self.state = {"method": method, "average": self.average, "optimizer": optimizer, "scaler": fabric.strategy.precision}
        self.progress = load_checkpoint(self.folder / "last.ckpt", self.state, config)
        if fabric.broadcast(self.progress) != self.progress:
            raise ConfigError(f"run.dir {self.folder} holds other checkpoints on this machine; all machines have to share it")
        self.method, self.optimizer = fabric.setup(method, optimizer)
        self.passes = method.passes
        for name in self.passes:
            self.method.mark_forward_method(name)
        self.mixing = MIXINGS[config.optim.mixing](config, method, fabric)

    def run(self, sources: Sources, stop: StopRequest) -> None:
        """Go on to the last step, or until a stop is asked for. Raises as train()."""
        fabric, run, start = self.fabric, self.config.run, self.progress.step
        record = Record(self.folder, self.config, start, fabric.world_size) if fabric.is_global_zero else None
        batches = training_batches(sources, self.config, start, fabric.global_rank, fabric.world_size)
        bar = tqdm(
            range(start, run.max_steps),
            initial=start,
            total=run.max_steps,
            desc=self.folder.name,
            disable=not fabric.is_global_zero,
            mininterval=0.2 if sys.stderr.isatty() else 30,
        )
        for step in bar:
            values, signum = self._step(next(batches), step, stop.signum)
            self.progress.step = step + 1
            validating = (step + 1) % run.validate_every == 0 or step + 1 == run.max_steps
            figures = self._validate(sources) if validating else {}
            if record and (validating or (step + 1) % run.log_every == 0):
                record.log(step + 1, values | figures)
                _show(bar, step + 1, values | figures, self.config.optim.batch_size)
            if validating:
                self._judge(figures)
            if self.config.optim.schedule == "cyclic":
                self._keep_snapshot()
            if validating or signum:
                self._save("last.ckpt", self.state)
            if signum:
                raise StoppedError(f"stopped at step {step + 1}, saved in {self.folder / 'last.ckpt'}", signum)
        if record:
            record.close()

    def _step(self, batch: Batch, step: int, signum: int) -> tuple[dict[str, float], int]:
        """What to log of one batch's steps of the optimiser, and the signal that stops the run, once any process has one."""
        fabric, config, method = self.fabric, self.config, self.method.train()
        rate = set_rates(self.optimizer, rate_factor(step, config.optim, config.run))
        _seed(config.run.seed, step, 0)  # all processes augment alike
        batch = augment(to_device(batch, fabric.device), config.data, fabric.global_rank, fabric.world_size)
        _seed(config.run.seed, step, 1 + fabric.global_rank)
        log, weights, asked = {}, {}, False
        for name in self.passes:
            values, found, signalled = self._descend(getattr(method, name)(batch), step, signum)
            log, weights, asked = log | values, weights | found, asked or signalled
        self.average.update_parameters(method.module)
        log = {"lr": rate, "train/loss": sum(log.values())} | {f"train/{name}": value for name, value in log.items()}
        if config.optim.mixing != "sum":
            log |= {f"mixing/{name}": value for name, value in weights.items()}
        return log, (signum or signal.SIGTERM) if asked else 0

    def _descend(self, terms: dict[str, Tensor], step: int, signum: int) -> tuple[dict[str, float], dict[str, float], bool]:
        """One step of the optimiser down the weighted sum of `terms`.

        Returns their means over the processes, their weights, and whether a process has a signal.
        """
        fabric = self.fabric
        means = fabric.all_reduce(
            torch.stack([*(t.detach() for t in terms.values()), torch.tensor(signum, device=fabric.device)])
        )
        *values, asked = means.tolist()
        found = dict(zip(terms, values, strict=True))
        check_loss(found, step + 1, self._kept())
        self.optimizer.zero_grad(set_to_none=True)
        weights = self.mixing.weights(terms, found)
        fabric.backward(sum(weights[name] * term for name, term in terms.items()))
        norm = fabric.clip_gradients(self.method, self.optimizer, max_norm=self.config.optim.clip_norm, error_if_nonfinite=False)
        if not skips_overflow(fabric.strategy.precision):
            check_gradient(float(norm), step + 1, self._kept())
        self.optimizer.step()
        return found, weights, bool(asked)

    def _validate(self, sources: Sources) -> dict[str, float]:
        """Figures of the averaged weights, measured by one process and known to all."""
        figures: dict[str, float] = {}
        if self.fabric.is_global_zero:
            batches = validation_batches(sources, self.config.optim.batch_size)
            figures = validate(self.average.module, batches, self.fabric.device)
        return self.fabric.broadcast(figures)

    def _judge(self, figures: dict[str, float]) -> None:
        """Keep the best weights; raise TrainingError when a collapse has lasted."""
        health = {name.removeprefix("val/"): value for name, value in figures.items() if name != "val/loss"}
        reason = find_collapse(health)
        self.progress.collapsed = self.progress.collapsed + 1 if reason else 0
        check_collapse(reason, self.progress.collapsed, self.progress.step, self._kept())
        if not reason and figures["val/loss"] < self.progress.best:
            self.progress.best = figures["val/loss"]
            self._save("best.ckpt", {"average": self.average})

    def _keep_snapshot(self) -> None:
        """At the end of a cycle keep the averaged weights, beside those of the last few cycles."""
        ends = cycle_ends(self.config.run)
        if self.progress.step in ends:
            number = ends.index(self.progress.step) + 1
            self._save(f"snapshot_{number}.ckpt", {"average": self.average})
            if self.fabric.is_global_zero:
                (self.folder / f"snapshot_{number - self.config.run.keep}.ckpt").unlink(missing_ok=True)

    def _save(self, name: str, state: dict[str, Any]) -> None:
        if self.fabric.is_global_zero:
            save_checkpoint(self.folder / name, state, self.config, **asdict(self.progress))

    def _kept(self) -> str:
        path = self.folder / "last.ckpt"
        return f"{path} is from before" if path.is_file() else "no checkpoint was written yet"


def validate(method: Learner, batches: Iterable[Batch], device: torch.device) -> dict[str, float]:
    """Means over the validation samples, without augmentation: val/loss, and what Learner.health() reports."""
    method.eval()
    sums: dict[str, float] = defaultdict(float)
    count = 0
    with torch.no_grad():
        for index, batch in enumerate(to_device(batch, device) for batch in batches):
            _seed(0, index, 0)  # the same tie-breaking noise of the auto-mask every time
            figures = {"loss": sum(method.losses(batch).values()), **method.health(batch)}
            for name, value in figures.items():
                sums[f"val/{name}"] += float(value) * len(batch.image)
            count += len(batch.image)
    return {name: value / count for name, value in sums.items()}


def measure_loader(config: TrainConfig, count: int) -> str:
    """Read `count` batches after a first one, and say how many samples and images a second the loader gives."""
    batches = training_batches(build_sources(config.data, config.run.seed), config, 0)
    next(batches)  # starts the workers
    begin, images = time.perf_counter(), 0
    for batch in islice(batches, count):
        images += len(batch.image) * (1 + len(batch.views))
    duration = time.perf_counter() - begin
    samples = count * config.optim.batch_size
    return (
        f"loader: {images / duration:.1f} images/s, {samples / duration:.1f} samples/s "
        f"({count} batches of {config.optim.batch_size}, {config.data.workers} workers)"
    )


def _show(bar: Any, step: int, values: dict[str, float], batch_size: int) -> None:
    """Loss, rate and speed on the progress bar; a line for a validation."""
    speed = batch_size * (step - bar.initial) / bar.format_dict["elapsed"]
    bar.set_postfix({"loss": f"{values['train/loss']:.4f}", "lr": f"{values['lr']:.2g}", "images/s": f"{speed:.1f}"})
    if "val/loss" in values:
        bar.write(f"step {step}: validation loss {values['val/loss']:.4f}")


def _seed(seed: int, step: int, stream: int) -> None:
    """Start all random generators for a step, so that they depend on nothing that a checkpoint would have to keep."""
    seed_everything(int(np.random.SeedSequence((seed, step, stream)).generate_state(1)[0]), verbose=False)


if __name__ == "__main__":
    sys.exit(main())

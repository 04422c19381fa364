"""From a configuration to endless training batches and fixed validation batches."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from depth_ros.types import CameraModel, InputError
from training.batch import Batch, Sample, collate
from training.config import ConfigError, DataConfig, TrainConfig
from training.data.clips import Clips
from training.data.recording import Target
from training.data.sources import open_source

INPUT_ERROR = f"{InputError.__module__}.{InputError.__qualname__}"
STREET_VALIDATION_SEED = 1_000
STREET_VALIDATION_SAMPLES = 32


@dataclass(frozen=True)
class Sources:
    """The datasets of a run, and the camera they share at the network's input size."""

    camera: CameraModel
    train: tuple[tuple[Dataset[Sample], float], ...]  # datasets and their shares of the batches
    val: Dataset[Sample]
    skipped: int = 0  # images left out for want of a neighbour


class Shuffled(Sampler[list[int]]):
    """Endless batches of numbers, a new seeded permutation per epoch: item `number % size` in epoch `number // size`.

    Starts at any batch, so that a run can resume. Of `world_size` processes each gets its share of every batch. Raises
    ConfigError if the batches do not fit.
    """

    def __init__(self, size: int, batch_size: int, seed: int, start: int = 0, rank: int = 0, world_size: int = 1) -> None:
        if size < batch_size:
            raise ConfigError(f"optim.batch_size is {batch_size}, but a source has only {size} samples")
        if batch_size % world_size:
            raise ConfigError(
                f"optim.batch_size is {batch_size}; expected a multiple of the {world_size} processes that share it"
            )
        self.size, self.batch_size, self.seed, self.start = size, batch_size, seed, start
        self.share = slice(rank * batch_size // world_size, (rank + 1) * batch_size // world_size)

    def __iter__(self) -> Iterator[list[int]]:
        batch, per_epoch = self.start, self.size // self.batch_size
        while True:
            epoch, position = divmod(batch, per_epoch)
            order = torch.randperm(self.size, generator=torch.Generator().manual_seed(self.seed + epoch)).tolist()
            chosen = order[position * self.batch_size : (position + 1) * self.batch_size]
            yield [epoch * self.size + index for index in chosen[self.share]]
            batch += 1


def build_sources(config: DataConfig, seed: int) -> Sources:
    """Open the datasets that the configuration names. Raises InputError or ConfigError."""
    size = (config.width, config.height)
    if config.source == "street":
        from training.data.street import kitti_camera  # compiles its ray-caster on import: only where it is asked for

        camera = kitti_camera(*size)
        val = _streets(camera, config, STREET_VALIDATION_SEED, STREET_VALIDATION_SAMPLES)
        return Sources(camera, ((_streets(camera, config, seed, config.street_samples), 1.0),), val)
    common = {"stereo": config.stereo, "known_poses": config.known_poses, "depth": config.depth, "seed": seed}
    chosen = _subset(open_source(config, "train"), config.subset, config.subset_seed)
    train = Clips(chosen, size, offsets=config.offsets, **common)
    val = Clips(open_source(config, "val"), size, offsets=config.offsets[:1], **common)
    shares: list[tuple[Dataset[Sample], float]] = [(train, 1 - config.street_share)]
    if config.street_share > 0:
        shares.append((_streets(train.camera, config, seed, config.street_samples), config.street_share))
    return Sources(train.camera, tuple(shares), val, train.skipped + val.skipped)


def training_batches(sources: Sources, config: TrainConfig, start: int, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
    """Endless training batches from number `start` on; each comes from one source, drawn by its share. Raises InputError.

    Batch k depends on the configuration and k alone. Of `world_size` processes, the one with `rank` gets its part of it.
    """
    size, seed, workers = config.optim.batch_size, config.run.seed, config.data.workers
    shares = np.cumsum([share for _, share in sources.train])
    draw = np.random.default_rng(seed)
    passed = np.bincount(np.searchsorted(shares, draw.random(start), side="right"), minlength=len(shares))
    loaders = []
    for (dataset, _), first in zip(sources.train, passed, strict=True):
        sampler = Shuffled(len(dataset), size, seed, int(first), rank, world_size)  # type: ignore[arg-type]
        loader = DataLoader(
            dataset,
            batch_sampler=sampler,
            collate_fn=collate,
            num_workers=workers,
            persistent_workers=workers > 0,
            worker_init_fn=_leave_the_process_group,
        )
        loaders.append(iter(loader))
    while True:
        loader = loaders[int(np.searchsorted(shares, draw.random(), side="right"))]
        try:
            batch = next(loader)
        except InputError as error:  # one from a worker has the worker's traceback before its own text
            raise InputError(str(error).strip().splitlines()[-1].removeprefix(f"{INPUT_ERROR}: ")) from error
        yield batch


def validation_batches(sources: Sources, batch_size: int) -> DataLoader[Batch]:
    """The validation samples in order."""
    return DataLoader(sources.val, batch_size=batch_size, collate_fn=collate)


def _leave_the_process_group(worker: int) -> None:
    """A signal to the whole group must not take the data away from a trainer that still ends its step and saves."""
    os.setpgrp()


def _subset(targets: Sequence[Target], share: float, seed: int) -> list[Target]:
    """A random share of the targets, in their order; all of them for 1."""
    count = max(1, round(share * len(targets)))
    chosen = np.random.default_rng(seed).permutation(len(targets))[:count]
    return [targets[index] for index in sorted(chosen)]


def _streets(camera: CameraModel, config: DataConfig, seed: int, count: int) -> Dataset[Sample]:
    from training.data.street import StreetConfig  # compiles too
    from training.data.street.samples import StreetSamples

    world = StreetConfig(textures=config.street_textures, plain=config.street_plain)
    return StreetSamples(
        camera, count, views=config.street_views, seed=seed * count, known_poses=config.known_poses,
        config=world, scenes=config.street_scenes,
    )  # fmt: skip

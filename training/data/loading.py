"""From a configuration to endless training batches and fixed validation batches."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
from torch.utils.data import DataLoader, Dataset, Sampler

from depth_ros.types import CameraModel, InputError
from training.batch import Batch, Sample, collate
from training.config import ConfigError, DataConfig, TrainConfig
from training.data.clips import Clips
from training.data.mixed import Mixture, open_mixture
from training.data.order import EqualShares, Shuffled
from training.data.sources import choose_subset, open_source

INPUT_ERROR = f"{InputError.__module__}.{InputError.__qualname__}"


@dataclass(frozen=True)
class Sources:
    """The datasets of a run, and the camera they share at the network's input size."""

    camera: CameraModel
    train: tuple[tuple[Dataset[Sample], float], ...]  # datasets and their shares of the batches
    val: Dataset[Sample]
    skipped: int = 0  # images left out for want of a neighbour


def build_sources(config: DataConfig, seed: int) -> Sources:
    """Open the datasets that the configuration names. Raises InputError or ConfigError."""
    size = (config.width, config.height)
    if config.mix and config.source != "mixed":
        raise ConfigError(
            f"data.mix names {len(config.mix)} datasets, but data.source is '{config.source}'; expected mixed, or no mix"
        )
    if config.source == "mixed":
        train, val = open_mixture(config, seed)
        return Sources(train.camera, ((train, 1.0),), val)
    if config.source == "street":
        from training.data.street import kitti_camera  # compiles its ray-caster on import: only where it is asked for

        camera = kitti_camera(*size)
        return Sources(camera, ((_streets(config, camera, "train", seed), 1.0),), _streets(config, camera, "val", seed))
    common = {"stereo": config.stereo, "known_poses": config.known_poses, "depth": config.depth, "seed": seed}
    chosen = choose_subset(open_source(config, "train"), config.subset, config.subset_seed)
    clips = Clips(chosen, size, offsets=config.offsets, **common)
    held_out = Clips(open_source(config, "val"), size, offsets=config.offsets[:1], **common)
    shares: list[tuple[Dataset[Sample], float]] = [(clips, 1 - config.street_share)]
    if config.street_share > 0:
        shares.append((_streets(config, clips.camera, "train", seed), config.street_share))
    return Sources(clips.camera, tuple(shares), held_out, clips.skipped + held_out.skipped)


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
        sampler = _order(dataset, config.data.mixing, size, seed, int(first), rank, world_size)
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


def validation_batches(sources: Sources, batch_size: int) -> Iterator[Batch]:
    """The validation samples in order; of mixed datasets, each batch is from one."""
    parts = sources.val.datasets if isinstance(sources.val, Mixture) else [sources.val]
    return chain.from_iterable(DataLoader(part, batch_size=batch_size, collate_fn=collate) for part in parts)


def _order(dataset: Dataset[Sample], mixing: str, *batches: int) -> Sampler[list[int]]:
    """The order of a dataset's samples, for `batches` see Shuffled. Raises ConfigError if they do not fit."""
    if isinstance(dataset, Mixture) and mixing == "equal":
        return EqualShares([len(part) for part in dataset.datasets], *batches)
    return Shuffled(len(dataset), *batches)


def _leave_the_process_group(worker: int) -> None:
    """A signal to the whole group must not take the data away from a trainer that still ends its step and saves."""
    os.setpgrp()


def _streets(config: DataConfig, camera: CameraModel, part: str, seed: int) -> Dataset[Sample]:
    from training.data.street.samples import open_streets  # compiles too

    return open_streets(config, camera, part, seed)

"""From a configuration to endless training batches and fixed validation batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from depth_ros.types import CameraModel, InputError
from training.batch import Batch, Sample, collate
from training.config import ConfigError, DataConfig, TrainConfig
from training.data.video import VideoFolder, load_camera

INPUT_ERROR = f"{InputError.__module__}.{InputError.__qualname__}"
STREET_VALIDATION_SEED = 1_000
STREET_VALIDATION_SAMPLES = 32


@dataclass(frozen=True)
class Sources:
    """The datasets of a run, and the camera they share at the network's input size."""

    camera: CameraModel
    train: tuple[tuple[Dataset[Sample], float], ...]  # datasets and their shares of the batches
    val: Dataset[Sample]


class Shuffled(Sampler[list[int]]):
    """Endless batches of indices: a new seeded permutation per epoch; can start at any batch, so that a run can resume."""

    def __init__(self, size: int, batch_size: int, seed: int, start: int = 0) -> None:
        if size < batch_size:
            raise ConfigError(f"optim.batch_size is {batch_size}, but a source has only {size} samples")
        self.size, self.batch_size, self.seed, self.start = size, batch_size, seed, start

    def __iter__(self) -> Iterator[list[int]]:
        batch, per_epoch = self.start, self.size // self.batch_size
        while True:
            epoch, position = divmod(batch, per_epoch)
            order = torch.randperm(self.size, generator=torch.Generator().manual_seed(self.seed + epoch)).tolist()
            yield order[position * self.batch_size : (position + 1) * self.batch_size]
            batch += 1


def build_sources(config: DataConfig, seed: int) -> Sources:
    """Open the datasets that the configuration names. Raises InputError or ConfigError."""
    size = (config.width, config.height)
    if not config.images:
        if config.street_share < 1:
            raise ConfigError("data.images is empty; name the folder of a video, or set data.street_share: 1 for streets alone")
        from training.data.street import kitti_camera  # compiles its ray-caster on import: only where it is asked for

        camera = kitti_camera(*size)
        val = _streets(camera, config, STREET_VALIDATION_SEED, STREET_VALIDATION_SAMPLES)
        return Sources(camera, ((_streets(camera, config, seed, config.street_samples), 1.0),), val)
    if not config.calibration:
        raise ConfigError("data.calibration is empty; name the ROS camera calibration YAML of the video")
    root = Path(config.root)
    native = load_camera(root / config.calibration)
    poses = root / config.poses if config.poses else None
    common = {"poses": poses, "known_poses": config.known_poses, "seed": seed}
    train = VideoFolder(root / config.images, native, size, frames=config.train_frames, offsets=config.offsets, **common)
    val = VideoFolder(root / config.images, native, size, frames=config.val_frames, offsets=config.offsets[:1], **common)
    camera = native.rectified().resized(*size)
    shares: list[tuple[Dataset[Sample], float]] = [(train, 1 - config.street_share)]
    if config.street_share > 0:
        shares.append((_streets(camera, config, seed, config.street_samples), config.street_share))
    return Sources(camera, tuple(shares), val)


def training_batches(sources: Sources, config: TrainConfig, start: int) -> Iterator[Batch]:
    """Endless batches from step `start` on; each comes from one source, drawn by its share. Raises InputError."""
    loaders = []
    for dataset, share in sources.train:
        sampler = Shuffled(len(dataset), config.optim.batch_size, config.run.seed, round(start * share))  # type: ignore[arg-type]
        workers = config.data.workers
        loader = DataLoader(
            dataset, batch_sampler=sampler, collate_fn=collate, num_workers=workers, persistent_workers=workers > 0
        )
        loaders.append(iter(loader))
    shares = torch.tensor([share for _, share in sources.train])
    generator = torch.Generator().manual_seed(config.run.seed + start)
    while True:
        loader = loaders[int(torch.multinomial(shares, 1, generator=generator))]
        try:
            batch = next(loader)
        except InputError as error:  # one from a worker has the worker's traceback before its own text
            raise InputError(str(error).strip().splitlines()[-1].removeprefix(f"{INPUT_ERROR}: ")) from error
        yield batch


def validation_batches(sources: Sources, batch_size: int) -> DataLoader[Batch]:
    """The validation samples in order."""
    return DataLoader(sources.val, batch_size=batch_size, collate_fn=collate)


def _streets(camera: CameraModel, config: DataConfig, seed: int, count: int) -> Dataset[Sample]:
    from training.data.street_samples import StreetSamples  # compiles too

    return StreetSamples(camera, count, views=config.street_views, seed=seed * count)

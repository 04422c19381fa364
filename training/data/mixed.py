"""Datasets of different kinds in one run, all as inverse depth (Ranftl et al., TPAMI 2022, sections 3 to 5).

Whatever is known about a dataset's depth, a sample's inverse depth is true up to a positive factor and a shift of its own: what
scale-and-shift-invariant losses need. A dataset is one entry of data.mix; a kind is one line of KINDS.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import fields, replace

from torch.utils.data import ConcatDataset, Dataset

from depth_ros.images import resize_image
from depth_ros.types import CameraModel, InputError
from training.batch import Sample
from training.config import ConfigError, DataConfig, suggest
from training.data.clips import shrink_inverse
from training.data.files import report_missing
from training.data.movie import match_pairs
from training.data.recording import Target
from training.data.sources import choose_subset, open_source
from training.source_config import MixEntry, SourceConfig

# What opens a part of a dataset as images with an inverse depth (Recording.inverse); the seed is of the procedural worlds.
Opener = Callable[[DataConfig, str, int], list[Target]]


def open_measured(config: DataConfig, part: str, seed: int) -> list[Target]:
    """The images of a source that have a depth of their own; warns of the others. Raises InputError or ConfigError."""
    targets = _open_images(replace(config, depth=True, stereo=False), part, seed)
    known = [target.recording.has_depth(target.index, target.right) for target in targets]
    lacking = ["/".join(_identity(target)) for target, has_depth in zip(targets, known, strict=True) if not has_depth]
    report_missing(config.folder, "images have no depth and are left out", lacking, len(targets))
    return [target for target, has_depth in zip(targets, known, strict=True) if has_depth]


def open_matched(config: DataConfig, part: str, seed: int) -> list[Target]:
    """The pairs of a source, with disparity by matching. Raises InputError or ConfigError."""
    return match_pairs(_open_images(replace(config, depth=False, stereo=True), part, seed), config.folder)


def _open_images(config: DataConfig, part: str, seed: int) -> list[Target]:
    if config.source == "street":
        from training.data.street.samples import open_street_truth  # compiles on import: only where it is asked for

        return open_street_truth(config, part, seed)
    targets = open_source(config, part)
    return choose_subset(targets, config.subset, config.subset_seed) if part == "train" else targets


KINDS: dict[str, Opener] = {
    "depth": open_measured,  # in metres: RGB-D, lidar, a rendered world
    "disparity": open_measured,  # of a rectified pair, calibrated or not: inverse depth up to a factor
    "sfm": open_measured,  # of structure from motion: depth up to a factor
    "movie": open_matched,  # a pair of unknown calibration, without any depth: up to a factor and a shift
}


class InverseSamples(Dataset[Sample]):
    """One sample per target at the network's size (width, height), with its inverse depth and the number of its dataset."""

    def __init__(self, targets: Sequence[Target], size: tuple[int, int], dataset: int) -> None:
        self.targets, self.size, self.dataset = targets, size, dataset

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Sample:
        """The sample of a target. Raises InputError for a file that cannot be read."""
        target = self.targets[index]
        recording = target.recording
        image, camera = recording.image(target.index, target.right, least=self.size)
        K = camera.resized(*self.size).K
        inverse = recording.inverse(target.index, target.right)
        if inverse is None:
            raise InputError(f"{'/'.join(_identity(target))}: its depth is gone since the run was started")
        height, width = inverse.shape
        seen_by = recording.camera(target.index).resized(width, height).K
        inverse = shrink_inverse(inverse, seen_by, K, *self.size)
        return Sample(resize_image(image, *self.size), K, inverse=inverse, dataset=self.dataset)


class Mixture(ConcatDataset[Sample]):
    """The training or validation parts of all datasets, one after the other; numbers are counted round."""

    datasets: list[InverseSamples]

    def __getitem__(self, number: int) -> Sample:
        """Sample number % len(self)."""
        return super().__getitem__(number % len(self))

    @property
    def camera(self) -> CameraModel:
        """Camera of the first image at the network's size; the others have cameras of their own."""
        first = self.datasets[0]
        return first.targets[0].recording.camera(first.targets[0].index).resized(*first.size)


def open_mixture(config: DataConfig, seed: int) -> tuple[Mixture, Mixture]:
    """The training and the validation part of data.mix. Raises ConfigError or InputError, naming the entry."""
    check_mix(config)
    parts: dict[str, list[list[Target]]] = {"train": [], "val": []}
    for entry in config.mix:
        data = replace(config, mix=(), **{f.name: getattr(entry, f.name) for f in fields(SourceConfig)})
        for part, found in parts.items():
            found.append(_open_entry(entry, data, part, seed))
    check_apart(config.mix, parts["train"], parts["val"])
    size = (config.width, config.height)
    train, val = (Mixture([InverseSamples(t, size, n) for n, t in enumerate(found)]) for found in parts.values())
    return train, val


def _open_entry(entry: MixEntry, data: DataConfig, part: str, seed: int) -> list[Target]:
    try:
        targets = KINDS[entry.kind](data, part, seed)
    except (ConfigError, InputError) as error:
        raise type(error)(f"data.mix: '{entry.name}': {error}") from error
    if not targets:
        raise InputError(f"data.mix: '{entry.name}': no image of part '{part}' has an inverse depth; expected one at least")
    return targets


def check_mix(config: DataConfig) -> None:
    """Raise ConfigError where data.mix is no list of datasets, each with a name of its own and a kind, or is crossed."""
    for number, entry in enumerate(config.mix, 1):
        where = f"data.mix: '{entry.name}'" if entry.name else f"data.mix: entry {number}"
        if not entry.name:
            raise ConfigError(f"{where} has no name; expected one")
        if entry.kind not in KINDS:
            raise ConfigError(f"{where}: kind is '{entry.kind}'; {suggest(entry.kind, KINDS)}expected one of {', '.join(KINDS)}")
    twice = [name for name, count in Counter(entry.name for entry in config.mix).items() if count > 1]
    if twice:
        raise ConfigError(f"data.mix: several datasets are called '{twice[0]}'; expected a name for each")
    if not config.mix:
        raise ConfigError("data.mix is empty; expected the datasets that data.source: mixed is made of, each with name and kind")
    if config.street_share:
        raise ConfigError("data.street_share is for another data.source; with mixed, make street an entry of data.mix")


def check_apart(mix: Sequence[MixEntry], train: Sequence[Sequence[Target]], val: Sequence[Sequence[Target]]) -> None:
    """Raise ConfigError if an image trains in one dataset and validates in the same or another one."""
    trained = {_identity(target): entry.name for entry, targets in zip(mix, train, strict=True) for target in targets}
    for entry, targets in zip(mix, val, strict=True):
        shared = [_identity(target) for target in targets if _identity(target) in trained]
        if shared:
            raise ConfigError(
                f"data.mix: {len(shared)} validation images of '{entry.name}' train in '{trained[shared[0]]}', the first is "
                f"{'/'.join(shared[0])}; expected train_frames and val_frames, or splits, that lie apart"
            )


def _identity(target: Target) -> tuple[str, str]:
    return target.recording.name, target.recording.image_name(target.index, target.right)

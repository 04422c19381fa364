"""Evaluation sets: images with a calibration and depth truth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from depth_ros.types import BoolArray, CameraModel, Float32Array, Frame
from training.config import DataConfig
from training.data.recording import Target
from training.data.sources import open_source


@dataclass(frozen=True)
class EvaluationItem:
    """One image with its truth, which shows the same view but may have another size (Make3D's grid)."""

    name: str  # of the image, see Recording.image_name
    frame: Frame
    truth: Float32Array  # (h, w) [m], 0 where not measured
    moving: BoolArray | None = None  # (h, w) moving objects, where the set knows them


@dataclass(frozen=True)
class EvaluationSet:
    """Images to judge on; iterating passes over those without truth, so compare the number of items with len()."""

    name: str
    targets: tuple[Target, ...]

    def __len__(self) -> int:
        return len(self.targets)

    def __iter__(self) -> Iterator[EvaluationItem]:
        """The images that have truth. Raises InputError for a bad file."""
        for target in self.targets:
            recording, index = target.recording, target.index
            truth = recording.depth(index, target.right)
            if truth is not None:
                image, camera = recording.image(index, target.right)
                name = recording.image_name(index, target.right)
                yield EvaluationItem(name, Frame(image, camera, 0, name), truth, recording.moving(index))

    @property
    def camera(self) -> CameraModel:
        """Camera of the first image."""
        return self.targets[0].recording.camera(self.targets[0].index)

    def every_second(self, first: int) -> EvaluationSet:
        """Every other image, from index `first` (0 or 1) on: the two halves calibrate and judge."""
        return replace(self, name=f"{self.name}[{first}::2]", targets=self.targets[first::2])


def open_evaluation_set(path: Path, source: str = "folder", split: str = "", truth: str = "") -> EvaluationSet:
    """Open the test part of a source (see training.data.sources) at `path`. Raises InputError or ConfigError.

    By default a folder with meta.json, images, and truth in disp/ or depth/.
    """
    config = DataConfig(root=str(path), source=source, path="", split=split, truth=truth)
    return EvaluationSet(path.name, tuple(open_source(config, "test")))

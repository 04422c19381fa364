"""Evaluation sets: images with a calibration and depth truth."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from depth_ros.truth import TruthFolder
from depth_ros.types import CameraModel, Float32Array, Frame, InputError
from training.data.video import list_images, load_camera, read_image

IMAGE_FOLDERS = ("image", "left")


@dataclass(frozen=True)
class EvaluationSet:
    """Images of one camera, some or all with truth."""

    name: str
    files: tuple[Path, ...]
    camera: CameraModel
    truth: TruthFolder

    def __iter__(self) -> Iterator[tuple[Frame, Float32Array]]:
        """Frames and their truth (H, W) [m], for the images that have truth. Raises InputError for a bad file."""
        for file in self.files:
            truth = self.truth.depth(file.name)
            if truth is not None:
                yield Frame(read_image(file, self.camera), self.camera, 0, file.name), truth

    def every_second(self, first: int) -> EvaluationSet:
        """Every other image, from index `first` (0 or 1) on: the two halves calibrate and judge."""
        return replace(self, name=f"{self.name}[{first}::2]", files=self.files[first::2])


def open_evaluation_set(folder: Path) -> EvaluationSet:
    """Open a folder with `meta.json`, images in `image/` or `left/`, and truth in `disp/` or `depth/`. Raises InputError.

    `meta.json` holds K, width, height, and depth_scale (PNG value of a metre) or disp_scale (of a pixel) with baseline_m.
    """
    meta_file = folder / "meta.json"
    camera = load_camera(meta_file)
    meta = json.loads(meta_file.read_text(encoding="utf-8"))
    images = next((folder / name for name in IMAGE_FOLDERS if (folder / name).is_dir()), None)
    if images is None:
        raise InputError(f"{folder}: holds no folder {' or '.join(IMAGE_FOLDERS)}; expected the images there")
    try:
        if (folder / "disp").is_dir():
            truth = TruthFolder(folder / "disp", float(meta["disp_scale"]), camera.fx * float(meta["baseline_m"]))
        else:
            truth = TruthFolder(folder / "depth", float(meta["depth_scale"]))
    except (KeyError, TypeError) as error:
        raise InputError(f"{meta_file}: {error!r}; expected numbers depth_scale, or disp_scale and baseline_m") from error
    truth.check_size(camera.width, camera.height)
    return EvaluationSet(folder.name, tuple(list_images(images)), camera, truth)

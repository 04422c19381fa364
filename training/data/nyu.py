"""NYU Depth v2, the labelled part (Silberman et al., ECCV 2012): 1449 pairs in one MATLAB file, 654 of them to test on."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from depth_ros.types import CameraModel, Float32Array, InputError, UInt8Array
from training.config import DataConfig
from training.data.files import read_matlab
from training.data.recording import Recording, Target, frames_of

# The toolbox's camera_params.m; MATLAB counts pixels from 1.
CAMERA = CameraModel(640, 480, 518.85790, 519.46961, 325.58245 - 1, 253.73617 - 1)
TRUTHS = ("depths", "rawDepths")  # filled in, and as measured
MATLAB_FILE, SPLIT_FILE = "nyu_depth_v2_labeled.mat", "splits.mat"
SPLITS = {"train": "trainNdxs", "val": "trainNdxs", "test": "testNdxs"}


class LabelledNYU(Recording):
    """Some of the file's pairs, by their official numbers, which count from 1. They are no video. Raises InputError."""

    def __init__(self, file: Path, numbers: NDArray[np.integer], truth: str) -> None:
        self.name, self._file, self._numbers, self._truth = str(file), file, numbers, truth
        try:
            with h5py.File(file) as data:
                shapes = {name: data[name].shape for name in ("images", truth)}
        except (OSError, KeyError) as error:
            raise InputError(f"{file}: {error}; expected {MATLAB_FILE} with images and {truth}") from error
        count = shapes["images"][0]
        if shapes["images"] != (count, 3, CAMERA.width, CAMERA.height) or shapes[truth] != (count, CAMERA.width, CAMERA.height):
            raise InputError(f"{file}: found {shapes}; expected images (N, 3, 640, 480) and {truth} (N, 640, 480)")
        if numbers.min() < 1 or numbers.max() > count:
            raise InputError(
                f"{file}: holds {count} pairs, but {SPLIT_FILE} names {numbers.max()}; expected files of one release"
            )

    def __len__(self) -> int:
        return len(self._numbers)

    def image_name(self, index: int, right: bool = False) -> str:
        """See Recording: the official number, as if it were a file."""
        return f"{self._numbers[index]:04d}.png"

    def camera(self, index: int) -> CameraModel:
        """See Recording."""
        return CAMERA

    def image(self, index: int, right: bool = False, least: tuple[int, int] = (0, 0)) -> tuple[UInt8Array, CameraModel]:
        """See Recording."""
        return self._read("images", index).astype(np.uint8), CAMERA

    def depth(self, index: int, right: bool = False) -> Float32Array | None:
        """See Recording."""
        return None if right else self._read(self._truth, index).astype(np.float32)

    def neighbour(self, index: int, offset: int) -> int | None:
        """See Recording: none, as the pairs are single frames of many rooms."""
        return None

    def _read(self, name: str, index: int) -> NDArray[np.generic]:
        """Opened for each item: an open HDF5 file does not survive the fork of a loader process."""
        try:
            with h5py.File(self._file) as data:
                return np.ascontiguousarray(data[name][self._numbers[index] - 1].T)
        except OSError as error:
            raise InputError(f"{self._file}: {name} of pair {self._numbers[index]}: {error}; expected the whole file") from error


def open_nyu(config: DataConfig, part: str) -> list[Target]:
    """`source: nyu`: data.path holds nyu_depth_v2_labeled.mat and splits.mat.

    Training and validation images are data.train_frames and data.val_frames of the 795 official training images. `data.truth`:
    depths (filled in, the default) or rawDepths. Raises InputError.
    """
    folder, truth = Path(config.root) / config.path, config.truth or TRUTHS[0]
    if truth not in TRUTHS:
        raise InputError(f"data.truth is '{truth}'; expected {' or '.join(TRUTHS)}")
    file = folder / SPLIT_FILE
    expected = "the official splits with trainNdxs and testNdxs"
    numbers = np.asarray(read_matlab(file, SPLITS[part], expected), dtype=np.int64).ravel()
    if not len(numbers):
        raise InputError(f"{file}: {SPLITS[part]} is empty; expected {expected}")
    return frames_of(LabelledNYU(folder / MATLAB_FILE, numbers, truth), config, part)

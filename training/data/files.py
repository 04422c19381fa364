"""What the readers of published sets share: lists of files as recordings, their formats, and their splits."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from depth_ros.types import CameraModel, Float32Array, Float64Array, InputError, UInt8Array
from training.config import DataConfig
from training.data.recording import Recording, decode, list_images

T = TypeVar("T")


class FileRecording(Recording):
    """Images of one camera in files, of which each may have a file with its truth.

    `read_truth` makes depth (h, w) [m] of such a file. Images that are no `video` have no neighbours; nor has a frame whose
    pose in world_T_camera (N, 4, 4) is not finite.
    """

    def __init__(
        self,
        root: Path,
        camera: CameraModel,
        images: Sequence[Path],
        truths: Sequence[Path | None],
        read_truth: Callable[[Path], Float32Array],
        *,
        video: bool = False,
        world_T_camera: Float64Array | None = None,
    ) -> None:
        self.name, self.world_T_camera = str(root), world_T_camera
        self._root, self._camera, self._images, self._truths = root, camera, images, truths
        self._read_truth, self._video = read_truth, video

    def __len__(self) -> int:
        return len(self._images)

    def image_name(self, index: int, right: bool = False) -> str:
        """See Recording."""
        return self._images[index].relative_to(self._root).as_posix()

    def camera(self, index: int) -> CameraModel:
        """See Recording."""
        return self._camera

    def image(self, index: int, right: bool = False, least: tuple[int, int] = (0, 0)) -> tuple[UInt8Array, CameraModel]:
        """See Recording."""
        return decode(self._images[index], self._camera, least)

    def depth(self, index: int, right: bool = False) -> Float32Array | None:
        """See Recording; the truth is the left camera's."""
        file = self._truths[index]
        return None if right or file is None else self._read_truth(file)

    def has_depth(self, index: int, right: bool = False) -> bool:
        """See Recording."""
        return super().has_depth(index, right) if right else self._truths[index] is not None

    def neighbour(self, index: int, offset: int) -> int | None:
        """See Recording; offset 0 asks whether the frame itself has all that a target needs."""
        found = super().neighbour(index, offset)
        if found is None or (offset and not self._video):
            return None
        known = self.world_T_camera is None or bool(np.isfinite(self.world_T_camera[[index, found]]).all())
        return found if known else None


def read_png16(file: Path, unit: float) -> Float32Array:
    """Values (h, w) of a single-channel 16-bit PNG over `unit`, the value that stands for 1. Raises InputError."""
    image = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    if image is None or image.dtype != np.uint16 or image.ndim != 2:
        found = "no image" if image is None else f"{image.shape} {image.dtype}"
        raise InputError(f"{file}: {found}; expected a single-channel 16-bit PNG (value / {unit:g})")
    return np.asarray(image, np.float32) / np.float32(unit)


def image_size(file: Path) -> tuple[int, int]:
    """Width and height [px] of an image. Raises InputError."""
    image = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise InputError(f"{file}: cannot be read as an image")
    return image.shape[1], image.shape[0]


def read_lines(file: Path, expected: str) -> list[str]:
    """The lines of a text file without empty ones and comments (#). Raises InputError, which says what was expected."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: {error}; expected {expected}") from error
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def read_numbers(file: Path, columns: int, expected: str) -> Float64Array:
    """The numbers (n, columns) of a text file with one row a line; comments (#) are passed over. Raises InputError."""
    rows = []
    for line in read_lines(file, expected):
        try:
            row = [float(word) for word in line.split()]
        except ValueError:
            row = []
        if len(row) != columns or not np.isfinite(row).all():
            raise InputError(f"{file}: found '{line}'; expected {expected}: {columns} finite numbers a line")
        rows.append(row)
    return np.array(rows, dtype=np.float64).reshape(-1, columns)


def read_matlab(file: Path, name: str, expected: str) -> NDArray[np.generic]:
    """The array `name` of a MATLAB file before version 7.3. Raises InputError, which says what was expected."""
    try:
        array: NDArray[np.generic] = loadmat(file, variable_names=[name])[name]
    except (OSError, KeyError, ValueError, TypeError, NotImplementedError, MatReadError, zlib.error) as error:
        raise InputError(f"{file}: {error}; expected {expected}") from error
    return array


def named(items: Mapping[str, T], config: DataConfig, part: str) -> list[T]:
    """The items that <part>_files.txt of the folder data.split names, one a line. Raises InputError.

    The folder is relative to the data or to the working folder.
    """
    folders = (Path(config.root) / config.path / config.split, Path(config.split))
    files = [folder / f"{part}_files.txt" for folder in folders]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise InputError(
            f"data.split is '{config.split}', but there is neither {files[0]} nor {files[1]}; expected one name a line"
        )
    names = read_lines(file, "one name a line")
    unknown = [name for name in names if name not in items]
    if unknown or not names:
        found = f"names '{unknown[0]}' ({len(unknown)} unknown of {len(names)})" if unknown else "names nothing"
        raise InputError(f"{file}: {found}; expected names such as {', '.join(list(items)[:3])}")
    return [items[name] for name in names]


def report_missing(where: Path, what: str, missing: Sequence[object], total: int) -> None:
    """Warn, in one line, of what is left out; silent if nothing is."""
    if missing:
        warnings.warn(f"{where}: {len(missing)} of {total} {what}; the first is {missing[0]}", stacklevel=3)


def list_folder(folder: Path, expected: str) -> list[Path]:
    """Image files of a folder, see list_images. Raises InputError, which says what the folder should be."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected {expected}")
    return list_images(folder)

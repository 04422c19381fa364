"""What every source of real images offers: images with their cameras, and whatever else is known about them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from depth_ros.types import BoolArray, CameraModel, Float32Array, Float64Array, InputError, UInt8Array
from training.config import DataConfig

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
_REDUCED = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}


class Recording(ABC):
    """Rectified images of one camera, or of a stereo pair's left and right one, by index.

    A subclass reads one layout. `world_T_camera` and `travelled_m` are of the left camera and None where nobody knows.
    """

    name: str  # for messages
    baseline_m: float | None = None  # from the left to the right camera, which has the same K; None without a right one
    world_T_camera: Float64Array | None = None  # (N, 4, 4) [m]
    travelled_m: Float64Array | None = None  # (N,) [m] along the path, where only the distance is known

    @abstractmethod
    def __len__(self) -> int:
        """Number of images of the left camera."""

    @abstractmethod
    def image_name(self, index: int, right: bool = False) -> str:
        """Path of the image relative to the recording, by which predictions and truths in other folders are found."""

    @abstractmethod
    def camera(self, index: int) -> CameraModel:
        """Pinhole camera of an image at full resolution."""

    @abstractmethod
    def image(self, index: int, right: bool = False, least: tuple[int, int] = (0, 0)) -> tuple[UInt8Array, CameraModel]:
        """RGB image and its camera; at full resolution, or smaller, but not below the size `least` (width, height) if given.

        Raises InputError for a file that cannot be read.
        """

    def depth(self, index: int, right: bool = False) -> Float32Array | None:
        """True depth (h, w) [m], 0 where not measured; None where an image has none.

        It may have another size than the image, of which it is then the same view.
        """
        return None

    def has_depth(self, index: int, right: bool = False) -> bool:
        """Whether depth() would find a depth; a layout that knows without reading it should say so."""
        return self.depth(index, right) is not None

    def inverse(self, index: int, right: bool = False) -> Float32Array | None:
        """Inverse depth (h, w), true up to a positive factor and a shift: NaN where unknown, and None, as depth().

        Here 1 / depth, which is 0 where depth is infinite: that the sky is far is known.
        """
        depth = self.depth(index, right)
        if depth is None:
            return None
        return np.divide(np.float32(1), depth, where=depth > 0, out=np.full_like(depth, np.nan))

    def moving(self, index: int) -> BoolArray | None:
        """Mask of moving objects, of the true depth's size; None where nobody knows."""
        return None

    def neighbour(self, index: int, offset: int) -> int | None:
        """Index of the image `offset` frames later (earlier if negative); None where that frame is missing."""
        return index + offset if 0 <= index + offset < len(self) else None


@dataclass(frozen=True)
class Target:
    """One image that a network is trained or judged on."""

    recording: Recording
    index: int
    right: bool = False


class Excerpt(Recording):
    """The images [first, last) of another recording, with no neighbours outside: a split by time that does not leak."""

    def __init__(self, whole: Recording, first: int, last: int) -> None:
        self.name, self.baseline_m = whole.name, whole.baseline_m
        self._whole, self._first, self._last = whole, first, last
        self.world_T_camera = None if whole.world_T_camera is None else whole.world_T_camera[first:last]
        self.travelled_m = None if whole.travelled_m is None else whole.travelled_m[first:last]

    def __len__(self) -> int:
        return self._last - self._first

    def image_name(self, index: int, right: bool = False) -> str:
        """See Recording."""
        return self._whole.image_name(self._first + index, right)

    def camera(self, index: int) -> CameraModel:
        """See Recording."""
        return self._whole.camera(self._first + index)

    def image(self, index: int, right: bool = False, least: tuple[int, int] = (0, 0)) -> tuple[UInt8Array, CameraModel]:
        """See Recording."""
        return self._whole.image(self._first + index, right, least)

    def depth(self, index: int, right: bool = False) -> Float32Array | None:
        """See Recording."""
        return self._whole.depth(self._first + index, right)

    def has_depth(self, index: int, right: bool = False) -> bool:
        """See Recording."""
        return self._whole.has_depth(self._first + index, right)

    def inverse(self, index: int, right: bool = False) -> Float32Array | None:
        """See Recording."""
        return self._whole.inverse(self._first + index, right)

    def moving(self, index: int) -> BoolArray | None:
        """See Recording."""
        return self._whole.moving(self._first + index)

    def neighbour(self, index: int, offset: int) -> int | None:
        """See Recording."""
        found = self._whole.neighbour(self._first + index, offset)
        return found - self._first if found is not None and self._first <= found < self._last else None


def frames_of(recording: Recording, config: DataConfig, part: str) -> list[Target]:
    """The part "train", "val" (data.train_frames, data.val_frames) or "test" (all) of one recording. Raises InputError."""
    excerpt = Excerpt(recording, *frame_range(len(recording), config, part, recording.name))
    return [Target(excerpt, index) for index in range(len(excerpt))]


def frame_range(count: int, config: DataConfig, part: str, name: str) -> tuple[int, int]:
    """First frame of a part, see frames_of, and the one after its last, of `count`. Raises InputError, naming the recording."""
    first, last = {"train": config.train_frames, "val": config.val_frames, "test": (0, -1)}[part]
    last = last if last >= 0 else count
    if not 0 <= first < last <= count:
        raise InputError(
            f"{name}: data.{part}_frames is [{first}, {last}], and the recording holds {count} images; "
            f"expected [first, last] with 0 <= first < last <= {count}"
        )
    return first, last


def decode(file: Path, camera: CameraModel, least: tuple[int, int] = (0, 0)) -> tuple[UInt8Array, CameraModel]:
    """RGB image of a file that must have its camera's size, and the camera it then has. Raises InputError.

    With a size `least` (width, height), a JPEG is decoded at 1/2, 1/4 or 1/8 as long as it is no smaller: several times
    faster. Rows and columns beyond a multiple of that factor are cut off, so that the camera stays exact.
    """
    factor = 1
    if file.suffix.lower() in (".jpg", ".jpeg") and min(least) > 0:
        while factor < 8 and camera.width // (2 * factor) >= least[0] and camera.height // (2 * factor) >= least[1]:
            factor *= 2
    image = cv2.imread(str(file), _REDUCED[factor])
    if image is None:
        raise InputError(f"{file}: cannot be read as an image")
    width, height = camera.width // factor, camera.height // factor
    if image.shape[:2] != (-(-camera.height // factor), -(-camera.width // factor)):
        raise InputError(
            f"{file}: is {image.shape[1] * factor}x{image.shape[0] * factor}, but its calibration says "
            f"{camera.width}x{camera.height}; give the calibration of these images"
        )
    if factor > 1:
        camera = replace(camera, width=width * factor, height=height * factor).resized(width, height)
    return cv2.cvtColor(image[:height, :width], cv2.COLOR_BGR2RGB), camera


def list_images(folder: Path) -> list[Path]:
    """Image files of a folder in the order of their names. Raises InputError."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected the frames of a video")
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise InputError(f"{folder}: holds no image; expected files named *{', *'.join(IMAGE_SUFFIXES)}")
    return files


def load_poses(path: Path, count: int) -> NDArray[np.float64]:
    """World_T_camera (count, 4, 4) [m] from 3x4 row-major lines. Raises InputError."""
    try:
        rows = np.loadtxt(path, dtype=np.float64, ndmin=2)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {error}; expected 12 numbers per line") from error
    if rows.shape != (count, 12):
        raise InputError(
            f"{path}: holds {rows.shape[0]} lines of {rows.shape[1]} numbers; expected {count} (one per image) of 12"
        )
    if not np.isfinite(rows).all():
        line = int(np.argmin(np.isfinite(rows).all(axis=1))) + 1
        raise InputError(
            f"{path}: line {line} is not finite; expected a pose of every image, or leave its frames out of the video"
        )
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, :3] = rows.reshape(-1, 3, 4)
    return poses

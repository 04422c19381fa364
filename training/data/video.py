"""A recorded video as training samples: a folder of images, a calibration and, where known, poses."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from depth_ros.calibration import load_calibration
from depth_ros.images import Rectifier, resize_image
from depth_ros.types import CameraModel, InputError
from training.batch import Sample, SampleView

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


class VideoFolder(Dataset[Sample]):
    """Samples of consecutive frames, rectified and resized to the network's input by the robot's own code.

    Every target has all neighbours of the widest set of offsets inside [first, last). Raises InputError for a folder without
    images, a pose file of another length, or an image that cannot be read or has another size than the calibration.
    """

    def __init__(
        self,
        images: Path,
        camera: CameraModel,
        size: tuple[int, int],
        *,
        frames: tuple[int, int] = (0, -1),
        offsets: tuple[tuple[int, ...], ...] = ((-1, 1),),
        poses: Path | None = None,
        known_poses: bool = True,
        seed: int = 0,
    ) -> None:
        self.files = list_images(images)
        self.camera, self.size, self.offsets, self.known_poses = camera, size, offsets, known_poses
        self.rectify = Rectifier(camera) if camera.distortion else None
        self.K = camera.rectified().resized(*size).K
        self.world_T_camera = load_poses(poses, len(self.files)) if poses else None
        self.rng = np.random.default_rng(seed)
        first, last = frames[0], frames[1] if frames[1] >= 0 else len(self.files)
        if not 0 <= first < last <= len(self.files):
            raise InputError(
                f"{images}: frames {first} to {last} were asked for; the folder holds {len(self.files)}: "
                "choose data.train_frames and data.val_frames within it"
            )
        reach = [0, *(offset for group in offsets for offset in group)]
        self.targets = range(first - min(reach), last - max(reach))
        if not self.targets:
            raise InputError(f"{images}: {last - first} frames are too few for neighbours at {min(reach)} to {max(reach)}")

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Sample:
        """The sample of the index-th target, with one set of neighbours drawn at random."""
        target = self.targets[index]
        offsets = self.offsets[self.rng.integers(len(self.offsets))]
        return Sample(self._read(target), self.K, tuple(self._view(target, target + offset) for offset in offsets))

    def _view(self, target: int, source: int) -> SampleView:
        if self.world_T_camera is None:
            return SampleView(self._read(source))
        source_T_target = np.linalg.inv(self.world_T_camera[source]) @ self.world_T_camera[target]
        speed = float(np.linalg.norm(source_T_target[:3, 3]))
        return SampleView(self._read(source), source_T_target if self.known_poses else None, speed)

    def _read(self, frame: int) -> NDArray[np.uint8]:
        image = read_image(self.files[frame], self.camera)
        return resize_image(self.rectify(image) if self.rectify else image, *self.size)


def list_images(folder: Path) -> list[Path]:
    """Image files of a folder in the order of their names. Raises InputError."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected the frames of a video")
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise InputError(f"{folder}: holds no image; expected files named *{', *'.join(IMAGE_SUFFIXES)}")
    return files


def read_image(file: Path, camera: CameraModel) -> NDArray[np.uint8]:
    """RGB image (H, W, 3) that must have its camera's size. Raises InputError."""
    image = cv2.imread(str(file), cv2.IMREAD_COLOR)
    if image is None:
        raise InputError(f"{file}: cannot be read as an image")
    if image.shape[:2] != (camera.height, camera.width):
        raise InputError(
            f"{file}: is {image.shape[1]}x{image.shape[0]}, but its calibration says {camera.width}x{camera.height}; "
            "give the calibration of these images"
        )
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def load_camera(path: Path) -> CameraModel:
    """Camera of a ROS calibration YAML, or of a JSON with K (3x3), width and height (no distortion). Raises InputError."""
    if path.suffix != ".json":
        return load_calibration(path)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        K = np.array(values["K"], dtype=np.float64).reshape(3, 3)
        return CameraModel(values["width"], values["height"], K[0, 0], K[1, 1], K[0, 2], K[1, 2])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: {error!r}; expected a JSON with K (3x3), width and height") from error


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

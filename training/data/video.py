"""Recorded images in a folder, with a calibration and, where known, poses, a second camera and the truth."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from depth_ros.calibration import load_calibration
from depth_ros.images import Rectifier
from depth_ros.truth import TruthFolder
from depth_ros.types import CameraModel, Float32Array, InputError, UInt8Array
from training.config import ConfigError, DataConfig
from training.data.recording import Recording, Target, decode, frames_of, list_images, load_poses

IMAGE_FOLDERS = ("image", "left")


class ImageFolder(Recording):
    """A folder of images of one camera, in the order of their names; distorted images are rectified.

    `right` holds the images of the right camera under the same names. Raises InputError for a folder without images, a pose
    file of another length, or a right folder that lacks an image.
    """

    def __init__(
        self,
        images: Path,
        camera: CameraModel,
        *,
        poses: Path | None = None,
        right: Path | None = None,
        baseline_m: float | None = None,
        truth: TruthFolder | None = None,
    ) -> None:
        self.name, self.files, self.truth = str(images), list_images(images), truth
        self._raw, self._rectifier = camera, Rectifier(camera) if camera.distortion else None
        self.world_T_camera = load_poses(poses, len(self.files)) if poses else None
        self.baseline_m = baseline_m if right else None
        self._right = _partners(self.files, right) if right else None

    def __len__(self) -> int:
        return len(self.files)

    def image_name(self, index: int, right: bool = False) -> str:
        """See Recording."""
        return self.files[index].name

    def camera(self, index: int) -> CameraModel:
        """See Recording."""
        return self._raw.rectified()

    def image(self, index: int, right: bool = False, least: tuple[int, int] = (0, 0)) -> tuple[UInt8Array, CameraModel]:
        """See Recording. A distorted image is decoded in full."""
        file = (self._right if right and self._right else self.files)[index]
        if self._rectifier is None:
            return decode(file, self._raw, least)
        image, _ = decode(file, self._raw)
        return self._rectifier(image), self._rectifier.camera

    def depth(self, index: int, right: bool = False) -> Float32Array | None:
        """See Recording; the truth is the left camera's."""
        return None if right or self.truth is None else self.truth.depth(self.files[index].name)

    def has_depth(self, index: int, right: bool = False) -> bool:
        """See Recording."""
        return not right and self.truth is not None and self.truth.file(self.files[index].name).is_file()


def open_video(config: DataConfig, part: str) -> list[Target]:
    """`source: video`: data.images, data.calibration and data.poses, split by data.train_frames and data.val_frames."""
    if not config.images:
        raise ConfigError("data.images is empty; name the folder of a video, or choose another data.source, for example street")
    if not config.calibration:
        raise ConfigError("data.calibration is empty; name the ROS camera calibration YAML of the video")
    root = Path(config.root)
    camera = load_camera(root / config.calibration)
    video = ImageFolder(root / config.images, camera, poses=root / config.poses if config.poses else None)
    return frames_of(video, config, part)


def open_folder(config: DataConfig, part: str) -> list[Target]:
    """`source: folder`: data.path holds meta.json and image/ or left/, and may hold right/, poses.txt, disp/ and depth/.

    `meta.json` holds K, width, height, and baseline_m with right/, depth_scale (PNG value of a metre) with depth/, disp_scale
    (PNG value of a pixel) with disp/. Raises InputError.
    """
    folder = Path(config.root) / config.path
    meta_file = folder / "meta.json"
    camera = load_camera(meta_file)
    meta = json.loads(meta_file.read_text(encoding="utf-8"))
    images = next((folder / name for name in IMAGE_FOLDERS if (folder / name).is_dir()), None)
    if images is None:
        raise InputError(f"{folder}: holds no folder {' or '.join(IMAGE_FOLDERS)}; expected the images there")
    right, poses = folder / "right", folder / "poses.txt"
    try:
        truth = None
        if (folder / "disp").is_dir():
            truth = TruthFolder(folder / "disp", float(meta["disp_scale"]), camera.fx * float(meta["baseline_m"]))
        elif (folder / "depth").is_dir():
            truth = TruthFolder(folder / "depth", float(meta["depth_scale"]))
        baseline = float(meta["baseline_m"]) if right.is_dir() else None
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{meta_file}: {error!r}; expected numbers: depth_scale of depth/, disp_scale and baseline_m of disp/ and right/"
        ) from error
    if truth:
        truth.check_size(camera.width, camera.height)
    elif part == "test":
        raise InputError(f"{folder}: holds no truth; expected 16-bit PNGs named like the images in depth/ or disp/")
    recording = ImageFolder(
        images, camera,
        poses=poses if poses.is_file() else None,
        right=right if right.is_dir() else None,
        baseline_m=baseline,
        truth=truth,
    )  # fmt: skip
    recording.name = str(folder)
    return frames_of(recording, config, part)


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


def _partners(files: list[Path], folder: Path) -> list[Path]:
    partners = [folder / file.name for file in files]
    missing = [partner.name for partner in partners if not partner.is_file()]
    if missing:
        raise InputError(
            f"{folder}: lacks {len(missing)} of {len(files)} images, the first {missing[0]}; expected every left image's partner"
        )
    return partners

"""DIML/CVL RGB-D (Cho et al., arXiv 2110.11590): rooms from a Kinect v2, and outdoors by stereo matching.

No protocol was found in print, so this is ours: all images with truth, in metres; outdoors only where the published confidence is
at least 0.9. Both parts of the set, the small one of samples and the full one, are read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from depth_ros.types import CameraModel, Float32Array, InputError
from training.config import DataConfig
from training.data.files import FileRecording, image_size, list_folder, read_png16, report_missing
from training.data.recording import Target, frame_range
from training.data.video import load_camera

DEPTH_UNIT = 1000.0  # PNG value of a metre
CONFIDENCE = 0.9 * 255  # the least that counts
KIND = re.compile(r"(_[a-z]+)+$")  # what follows the name of a frame: _c, _depth_filled, _left


@dataclass(frozen=True)
class Layout:
    """The folders that lie beside each other, and the camera that took the images."""

    images: str
    truths: str
    confidences: str | None
    field_of_view: float  # width / fx; nominal, as no calibration comes with the images


KINECT_V2, ZED = 1920 / 1081.37, 1920 / 1400
LAYOUTS = (
    Layout("color", "depth_filled", None, KINECT_V2),  # indoor, samples
    Layout("col", "up_png", None, KINECT_V2),  # indoor, full
    Layout("outleft", "depthmap", "confidencemap", ZED),  # outdoor, samples
    Layout("left", "depth", "conf", ZED),  # outdoor, full
)


def open_diml(config: DataConfig, part: str) -> list[Target]:
    """`source: diml`: every image below data.path, or below its folders train/ and test/ where it has them.

    data.split is the folder in there of one resolution, HR or LR. Training and validation images are data.train_frames and
    data.val_frames in the order of their paths; data.calibration replaces the nominal camera. Raises InputError.
    """
    root = Path(config.root) / config.path
    official = (root / "train").is_dir() or (root / "test").is_dir()
    below = (root / ("test" if part == "test" else "train") if official else root) / config.split
    if (below / "HR").is_dir() and (below / "LR").is_dir():
        raise InputError(f"{below}: holds the same images as HR/ and as LR/; expected data.split: HR or data.split: LR")
    camera = load_camera(Path(config.root) / config.calibration) if config.calibration else None
    targets = []
    for layout in LAYOUTS:
        for folder in sorted(path for path in below.rglob(layout.images) if path.is_dir()):
            recording = read_folder(root, folder, layout, camera)
            targets += [Target(recording, index) for index in range(len(recording))]
    if not targets:
        expected = ", ".join(f"{layout.images}/ beside {layout.truths}/" for layout in LAYOUTS)
        raise InputError(f"{below}: holds no images of DIML; expected folders {expected}")
    first, last = frame_range(len(targets), config, part, str(below))
    return targets[first:last]


def read_folder(root: Path, folder: Path, layout: Layout, camera: CameraModel | None) -> FileRecording:
    """Images and truths of one folder; warns of images without truth. Raises InputError."""
    images = list_folder(folder, "images")
    truths = _by_frame(folder.with_name(layout.truths))
    confidences = _by_frame(folder.with_name(layout.confidences)) if layout.confidences else None
    frames = [_frame(image) for image in images]
    known = [truths.get(frame) for frame in frames]
    lacking = [image for image, truth in zip(images, known, strict=True) if truth is None]
    report_missing(folder, f"images have no truth in {layout.truths}/", lacking, len(images))
    if camera is None:
        width, height = image_size(images[0])
        focal = width / layout.field_of_view
        camera = CameraModel(width, height, focal, focal, (width - 1) / 2, (height - 1) / 2)
    return FileRecording(root, camera, images, known, partial(read_truth, confidences=confidences))


def _frame(file: Path) -> str:
    return KIND.sub("", file.stem)


def _by_frame(folder: Path) -> dict[str, Path]:
    return {_frame(file): file for file in list_folder(folder, "DIML's 16-bit PNGs beside the images")}


def read_truth(file: Path, confidences: dict[str, Path] | None) -> Float32Array:
    """Depth (h, w) [m], 0 where not measured or, outdoors, not confident. Raises InputError."""
    depth = read_png16(file, DEPTH_UNIT)
    if confidences is None:
        return depth
    confidence = confidences.get(_frame(file))
    if confidence is None:
        raise InputError(f"{file}: has no confidence map; expected one of the same name")
    values = cv2.imread(str(confidence), cv2.IMREAD_UNCHANGED)
    if values is None or values.shape != depth.shape or values.dtype != np.uint8:
        found = "no image" if values is None else f"{values.shape} {values.dtype}"
        raise InputError(f"{confidence}: {found}; expected {depth.shape} uint8, the size of {file.name}")
    return np.where(values >= CONFIDENCE, depth, np.float32(0))

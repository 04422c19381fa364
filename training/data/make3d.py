"""Make3D (Saxena et al., PAMI 2009), cropped as Monodepth2's authors judge it: images at 2:1, truth on a coarse grid."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from depth_ros.types import CameraModel, Float32Array, InputError, UInt8Array
from training.config import DataConfig
from training.data.files import FileRecording, list_folder, read_matlab, report_missing
from training.data.recording import Target, decode, frames_of

# The camera of the set's own code, at full size.
CAMERA = CameraModel(1704, 2272, 2407.33, 2400.21, 833.72, 1110.71)
ROWS = 852  # the central rows of the image that are judged, half of the width
GRID_ROWS, GRID_COLUMNS, CROPPED_ROWS = 55, 305, 21  # of the laser's grid, and what is left of it
DEPTH_CHANNEL = 3  # of Position3DGrid: x, y, z, depth
# Folders of the images and of the truth.
FOLDERS = {"test": ("Test134", "Gridlaserdata"), "train": ("Train400Img", "Train400Depth")}


class Make3D(FileRecording):
    """Images cropped to their central rows, with the truth (21, 305) [m] of the same view."""

    def camera(self, index: int) -> CameraModel:
        """See Recording."""
        return _cropped(CAMERA)

    def image(self, index: int, right: bool = False, least: tuple[int, int] = (0, 0)) -> tuple[UInt8Array, CameraModel]:
        """See Recording."""
        uncropped = (least[0], -(-least[1] * CAMERA.height // ROWS))
        image, camera = decode(self._images[index], CAMERA, uncropped)
        cropped = _cropped(camera)
        top = round(camera.cy - cropped.cy)
        return np.ascontiguousarray(image[top : top + cropped.height]), cropped


def _cropped(camera: CameraModel) -> CameraModel:
    """The camera of the central rows of the image, which may have been decoded smaller."""
    height = camera.height * ROWS // CAMERA.height
    return replace(camera, height=height, cy=camera.cy - (camera.height - height) // 2)


def open_make3d(config: DataConfig, part: str) -> list[Target]:
    """`source: make3d`: data.path holds Test134/ and Gridlaserdata/; to train, Train400Img/ and Train400Depth/.

    Training and validation images are data.train_frames and data.val_frames of the 400. Raises InputError.
    """
    root = Path(config.root) / config.path
    images_name, truths_name = FOLDERS["test" if part == "test" else "train"]
    images = list_folder(root / images_name, f"Make3D's {images_name} with img-*.jpg")
    truths = [root / truths_name / f"depth_sph_corr-{image.stem.removeprefix('img-')}.mat" for image in images]
    missing = [truth for truth in truths if not truth.is_file()]
    if len(missing) == len(truths):
        raise InputError(f"{missing[0]}: no such file; expected Make3D's {truths_name} beside {images_name}")
    report_missing(root, "truth files are missing", missing, len(truths))
    known = [truth if truth.is_file() else None for truth in truths]
    return frames_of(Make3D(root, CAMERA, images, known, read_truth), config, part)


def read_truth(file: Path) -> Float32Array:
    """Depth (21, 305) [m] of the central rows, as the laser measured it along its ray. Raises InputError."""
    expected = f"Position3DGrid ({GRID_ROWS}, {GRID_COLUMNS}, 4), as Make3D distributes it"
    grid = read_matlab(file, "Position3DGrid", expected)
    if grid.shape != (GRID_ROWS, GRID_COLUMNS, 4):
        raise InputError(f"{file}: found {grid.shape}; expected {expected}")
    top = (GRID_ROWS - CROPPED_ROWS) // 2
    return grid[top : top + CROPPED_ROWS, :, DEPTH_CHANNEL].astype(np.float32)

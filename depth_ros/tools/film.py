"""A film of predictions: image, depth and uncertainty beside each other, or below each other where the images are wide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from depth_ros.tools.painter import write
from depth_ros.tools.preview import BACKGROUND, BAR, GAP, TITLE, Limits, panels, place
from depth_ros.types import DepthPrediction, UInt8Array

LARGEST = 1920, 1080  # [px] of a picture
WIDE = 1.8  # width / height from which the panels stand below each other


class Film:
    """An MP4 whose size is that of its first picture. Raises OSError if it cannot be written."""

    def __init__(self, file: Path, rate_hz: float, limits: Limits) -> None:
        self._file, self._rate_hz, self._limits = file, rate_hz, limits
        self._writer: Any = None
        self._size = (0, 0)
        self._written = 0

    def add(self, image: UInt8Array, prediction: DepthPrediction, caption: str) -> None:
        """Append a picture of the RGB image (H, W, 3) and its prediction at the same resolution."""
        picture = draw(image, prediction, self._limits, caption)
        height, width = picture.shape[:2]
        if self._writer is None:
            self._size = (width, height)
            self._writer = cv2.VideoWriter(str(self._file), cv2.VideoWriter.fourcc(*"mp4v"), self._rate_hz, self._size)
            if not self._writer.isOpened():
                raise OSError(f"{self._file}: this video cannot be written; check the folder's permissions and the free space")
        elif (width, height) != self._size:  # the camera has changed
            fitted = np.empty((self._size[1], self._size[0], 3), np.uint8)
            place(fitted, picture)
            picture = fitted
        self._writer.write(picture)
        self._written += 1

    def close(self) -> None:
        """Finish the file, and see that it is whole: OpenCV says nothing of a full disk."""
        if self._writer is None:
            return
        self._writer.release()
        found = int(cv2.VideoCapture(str(self._file)).get(cv2.CAP_PROP_FRAME_COUNT))
        if found != self._written:
            raise OSError(f"{self._file}: holds {found} pictures of {self._written} that were written; is the disk full?")


def draw(image: UInt8Array, prediction: DepthPrediction, limits: Limits, caption: str) -> UInt8Array:
    """Return the BGR picture (h, w, 3), no larger than LARGEST and of an even size, of an RGB image (H, W, 3)."""
    height, width = image.shape[:2]
    rows, columns = (3, 1) if width >= WIDE * height else (1, 3)
    cell = (LARGEST[0] - GAP) // columns, (LARGEST[1] - GAP) // rows
    scale = min(1.0, (cell[0] - GAP - BAR) / width, (cell[1] - GAP - TITLE) / height)
    shown = max(1, round(width * scale)), max(1, round(height * scale))
    step = shown[0] + BAR + GAP, shown[1] + TITLE + GAP
    size = [(n * step[axis] + GAP) // 2 * 2 for axis, n in enumerate((columns, rows))]
    canvas = np.full((size[1], size[0], 3), BACKGROUND, np.uint8)
    for number, (title, (picture, bar)) in enumerate(panels(image, prediction.depth, prediction.sigma, limits).items()):
        left, top = GAP + step[0] * (number % columns), TITLE + step[1] * (number // columns)
        write(canvas, f"{title}   {caption}" if number == 0 else title, left, top - 9, size=0.5)
        place(canvas[top : top + shown[1], left : left + shown[0]], picture)
        if bar is not None:
            bar(canvas[top : top + shown[1], left + shown[0] + 12 : left + shown[0] + BAR], limits)
    return canvas

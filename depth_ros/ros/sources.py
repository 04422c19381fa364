"""Where recorded images come from: a video, a folder of images, or a ROS 2 bag."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from sensor_msgs.msg import CameraInfo, Image

from depth_ros import compressed
from depth_ros.ros import messages
from depth_ros.types import CameraModel, InputError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
BAG_SUFFIXES = (".mcap", ".db3")
FOLDER_RATE_HZ = 10.0  # of a folder of images, which has no rate of its own
FRAME_ID = "camera_optical_frame"  # where neither the source nor the user names one


@dataclass(frozen=True)
class SourceImage:
    """One image with the source's own stamp and frame_id: a bag's, else the time since the first image, and empty."""

    name: str  # file name, or frame number of a video, or stamp in a bag
    time_s: float  # since the first image, by the source's own clock
    image: Image
    camera_info: CameraInfo | None = None  # where the source brings its own

    def info(self, camera: CameraModel | None, calibration: Path | str) -> CameraInfo:
        """Return the camera_info: of `camera`, read from the file `calibration`, or where that is None the source's own.

        Raises InputError if there is neither, or if the calibration is for another size of image.
        """
        if camera is None and self.camera_info is None:
            raise InputError("no camera_info: give a ROS camera calibration YAML as 'camera_info'")
        if camera is None:
            return self.camera_info
        if (self.image.width, self.image.height) != (camera.width, camera.height):
            raise InputError(
                f"image '{self.name}' is {self.image.width}x{self.image.height}, but {calibration} is for "
                f"{camera.width}x{camera.height}: use the calibration of this image size"
            )
        return messages.camera_info(camera, self.image.header)


class Source(Protocol):
    """A sequence of images."""

    skipped: int  # images that could not be read
    count: int  # images, as far as the source knows beforehand; 0 if it does not
    rate_hz: float  # mean, by the source's own clock

    def __iter__(self) -> Iterator[SourceImage]:
        """Yield the images in order, from the start."""


def open_source(path: Path | str, topic: str = "") -> Source:
    """Open a video file, a folder of images or a bag; `topic` chooses among several image topics of a bag.

    Raises InputError naming the path if it holds no images, or what is not installed if it is a bag.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; expected a video, a folder of images or a ROS 2 bag")
    if is_bag(path):
        return _open_bag(path, topic)
    return Folder(path) if path.is_dir() else Video(path)


def is_bag(path: Path) -> bool:
    """Return whether `path` looks like a ROS 2 bag: a folder, or a file of one. A recording that was cut off has no metadata."""
    if path.suffix in BAG_SUFFIXES or (path / "metadata.yaml").is_file():
        return True
    inside = {file.suffix.lower() for file in path.glob("*")}
    return not inside.isdisjoint(BAG_SUFFIXES) and inside.isdisjoint(IMAGE_SUFFIXES)


def _open_bag(path: Path, topic: str) -> Source:
    try:
        from depth_ros.ros.bag import Bag  # rosbags is needed for bags only, and no rosdep key installs it
    except ModuleNotFoundError as error:
        raise InputError(f"{path}: a bag is read with rosbags, which is not installed ({error}): pip install rosbags") from error
    return Bag(path, topic)


def bgr_message(pixels: np.ndarray[Any, Any]) -> Image:
    """Return (H, W, 3) uint8 BGR as a bgr8 image without a header."""
    height, width = pixels.shape[:2]
    message = Image(height=height, width=width, encoding="bgr8", step=3 * width)
    message.data.frombytes(np.ascontiguousarray(pixels).view(np.uint8))
    return message


def _stamped(name: str, time_s: float, pixels: np.ndarray[Any, Any]) -> SourceImage:
    image = bgr_message(pixels)
    seconds, nanoseconds = divmod(round(time_s * 1e9), 10**9)
    image.header.stamp = Time(sec=seconds, nanosec=nanoseconds)
    return SourceImage(name, time_s, image)


class Folder:
    """The images of a folder, sorted by name."""

    def __init__(self, path: Path) -> None:
        self.skipped = 0
        self._files = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
        if not self._files:
            raise InputError(f"{path}: no images in this folder; expected files ending in {', '.join(IMAGE_SUFFIXES)}")
        self.count, self.rate_hz = len(self._files), FOLDER_RATE_HZ

    def __iter__(self) -> Iterator[SourceImage]:
        for number, file in enumerate(self._files):
            pixels = cv2.imread(str(file), cv2.IMREAD_COLOR)
            if pixels is None or compressed.is_cut_off(np.fromfile(file, np.uint8)):
                self.skipped += 1
            else:
                yield _stamped(file.name, number / FOLDER_RATE_HZ, pixels)


class Video:
    """The frames of a video file."""

    def __init__(self, path: Path) -> None:
        self.skipped = 0
        self._path = path
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # what is wrong is said below, in one line
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        capture = self._open()
        if not capture.read()[0]:
            raise InputError(f"{path}: not a video that OpenCV can read; expected mp4, avi, mkv, mov or the like")
        self.count = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))  # an estimate; negative for some containers
        self.rate_hz = capture.get(cv2.CAP_PROP_FPS) or FOLDER_RATE_HZ

    def _open(self) -> cv2.VideoCapture:
        return cv2.VideoCapture(str(self._path))

    def __iter__(self) -> Iterator[SourceImage]:
        capture = self._open()
        number = 0
        while True:
            good, pixels = capture.read()
            if not good:
                break
            yield _stamped(f"{number:06d}", number / self.rate_hz, pixels)
            number += 1
        capture.release()

"""Where the player's images come from: a video, a folder of images, or a ROS 2 bag."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.rosbag2 import ReaderError
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import CameraInfo, Image, RegionOfInterest

from depth_ros.types import InputError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
BAG_SUFFIXES = (".mcap", ".db3")
FOLDER_RATE_HZ = 10.0  # of a folder of images, which has no rate of its own
IMAGE_TYPE, COMPRESSED_TYPE, INFO_TYPE = (f"sensor_msgs/msg/{name}" for name in ("Image", "CompressedImage", "CameraInfo"))


@dataclass(frozen=True)
class SourceImage:
    """One image as it will be published; stamp and frame_id are still the source's, or empty."""

    name: str  # file name, or frame number of a video, or stamp in a bag
    time_s: float  # since the first image, by the source's own clock
    image: Image
    camera_info: CameraInfo | None = None  # where the source brings its own


class Source(Protocol):
    """A sequence of images."""

    skipped: int  # images that could not be read

    def __iter__(self) -> Iterator[SourceImage]:
        """Yield the images in order, from the start."""


def open_source(path: Path | str, topic: str = "") -> Source:
    """Open a video file, a folder of images or a bag; `topic` chooses among several image topics of a bag.

    Raises InputError naming the path if it holds no images.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; expected a video, a folder of images or a ROS 2 bag")
    if path.suffix in BAG_SUFFIXES or (path / "metadata.yaml").is_file():
        return Bag(path, topic)
    return Folder(path) if path.is_dir() else Video(path)


def bgr_message(pixels: np.ndarray[Any, Any]) -> Image:
    """Return (H, W, 3) uint8 BGR as a bgr8 image without a header."""
    height, width = pixels.shape[:2]
    message = Image(height=height, width=width, encoding="bgr8", step=3 * width)
    message.data.frombytes(np.ascontiguousarray(pixels).view(np.uint8))
    return message


class Folder:
    """The images of a folder, sorted by name."""

    def __init__(self, path: Path) -> None:
        self.skipped = 0
        self._files = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
        if not self._files:
            raise InputError(f"{path}: no images in this folder; expected files ending in {', '.join(IMAGE_SUFFIXES)}")

    def __iter__(self) -> Iterator[SourceImage]:
        for number, file in enumerate(self._files):
            pixels = cv2.imread(str(file), cv2.IMREAD_COLOR)
            if pixels is None:
                self.skipped += 1
            else:
                yield SourceImage(file.name, number / FOLDER_RATE_HZ, bgr_message(pixels))


class Video:
    """The frames of a video file."""

    def __init__(self, path: Path) -> None:
        self.skipped = 0
        self._path = path
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # what is wrong is said below, in one line
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        if not self._open().read()[0]:
            raise InputError(f"{path}: not a video that OpenCV can read; expected mp4, avi, mkv, mov or the like")

    def _open(self) -> cv2.VideoCapture:
        return cv2.VideoCapture(str(self._path))

    def __iter__(self) -> Iterator[SourceImage]:
        capture = self._open()
        rate_hz = capture.get(cv2.CAP_PROP_FPS) or FOLDER_RATE_HZ
        number = 0
        while True:
            good, pixels = capture.read()
            if not good:
                break
            yield SourceImage(f"{number:06d}", number / rate_hz, bgr_message(pixels))
            number += 1
        capture.release()


class Bag:
    """The images of one topic of a ROS 2 bag (MCAP or sqlite3), with the camera_info beside that topic if there is one."""

    def __init__(self, path: Path, topic: str) -> None:
        self.skipped = 0
        self._path = path
        try:
            with self._open() as reader:
                types = {name: info.msgtype for name, info in reader.topics.items()}
        except (AnyReaderError, ReaderError, OSError) as error:
            raise InputError(f"{path}: not a bag that can be read ({error}); expected a ROS 2 bag, MCAP or sqlite3") from error
        self._topic = self._choose({name for name, kind in types.items() if kind in (IMAGE_TYPE, COMPRESSED_TYPE)}, topic)
        info = self._topic.removesuffix("/compressed").rpartition("/")[0] + "/camera_info"
        self._info_topic = info if types.get(info) == INFO_TYPE else None

    def _open(self) -> AnyReader:
        return AnyReader([self._path], default_typestore=get_typestore(Stores.ROS2_JAZZY))

    def _choose(self, topics: set[str | None], wanted: str) -> str:
        names = sorted(name for name in topics if name)
        if wanted in names:
            return wanted
        if wanted or not names:
            raise InputError(
                f"{self._path}: no image topic {wanted or 'at all'} in this bag; found: {', '.join(names) or 'none'}"
            )
        if len(names) > 1:
            raise InputError(f"{self._path}: several image topics ({', '.join(names)}); choose one with the parameter 'topic'")
        return names[0]

    def __iter__(self) -> Iterator[SourceImage]:
        info: CameraInfo | None = None
        first_ns: int | None = None
        with self._open() as reader:
            wanted = [connection for connection in reader.connections if connection.topic in (self._topic, self._info_topic)]
            if self._info_topic:  # the first image is often recorded before its camera_info
                info = self._first_info(reader)
            for connection, time_ns, raw in reader.messages(wanted):
                message = reader.deserialize(raw, connection.msgtype)
                if connection.topic == self._info_topic:
                    info = camera_info_message(message)
                    continue
                first_ns = time_ns if first_ns is None else first_ns
                image = image_message(message)
                if image is None:
                    self.skipped += 1
                else:
                    yield SourceImage(str(time_ns), (time_ns - first_ns) / 1e9, image, info)

    def _first_info(self, reader: AnyReader) -> CameraInfo | None:
        connections = [connection for connection in reader.connections if connection.topic == self._info_topic]
        for connection, _, raw in reader.messages(connections):
            return camera_info_message(reader.deserialize(raw, connection.msgtype))
        return None


def image_message(message: Any) -> Image | None:
    """Return a bag's Image or CompressedImage as an Image to publish, or None if the compressed data is corrupt."""
    if not hasattr(message, "encoding"):
        pixels = cv2.imdecode(np.asarray(message.data, np.uint8), cv2.IMREAD_COLOR) if len(message.data) else None
        if pixels is None:
            return None
        image = bgr_message(pixels)
    else:
        image = Image(height=message.height, width=message.width, encoding=message.encoding, step=message.step)
        image.is_bigendian = message.is_bigendian
        image.data.frombytes(np.ascontiguousarray(message.data))
    image.header.frame_id = message.header.frame_id
    return image


def camera_info_message(message: Any) -> CameraInfo:
    """Return a bag's CameraInfo as one to publish."""
    info = CameraInfo(height=message.height, width=message.width, distortion_model=message.distortion_model)
    for name in ("d", "k", "r", "p"):
        setattr(info, name, np.asarray(getattr(message, name), np.float64).tolist())
    info.binning_x, info.binning_y = message.binning_x, message.binning_y
    names = ("x_offset", "y_offset", "height", "width", "do_rectify")
    info.roi = RegionOfInterest(**{name: getattr(message.roi, name) for name in names})
    return info

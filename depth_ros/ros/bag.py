"""The images of a ROS 2 bag, read with rosbags: no ROS installation's storage plugins are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rclpy.serialization import deserialize_message
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import CameraInfo, Image, RegionOfInterest

from depth_ros import compressed
from depth_ros.ros.sources import FOLDER_RATE_HZ, SourceImage, bgr_message
from depth_ros.types import InputError

IMAGE_TYPE, COMPRESSED_TYPE, INFO_TYPE = (f"sensor_msgs/msg/{name}" for name in ("Image", "CompressedImage", "CameraInfo"))


class _Listener(NamedTuple):
    callback: Callable[[Any], None]
    kind: type | None
    latched: bool


class Bag:
    """The images of one topic of a ROS 2 bag (MCAP or sqlite3), with the camera_info beside that topic if there is one.

    `time_ns` is when the last message was recorded that has been read.
    """

    def __init__(self, path: Path, topic: str) -> None:
        self.skipped, self.time_ns = 0, 0
        self._path = path
        self._listeners: dict[str, _Listener] = {}
        try:
            with self._open() as reader:
                topics, seconds = reader.topics, reader.duration / 1e9
        except Exception as error:  # rosbags' own, or whatever its parsers stumble over
            raise InputError(
                f"{path}: not a bag that can be read ({error}); expected a ROS 2 bag, MCAP or sqlite3; `mcap recover` and "
                "`ros2 bag reindex` mend one whose recording was cut off"
            ) from error
        self._types = types = {name: info.msgtype for name, info in topics.items()}
        self._topic = self._choose({name for name, kind in types.items() if kind in (IMAGE_TYPE, COMPRESSED_TYPE)}, topic)
        self.count = topics[self._topic].msgcount
        self.rate_hz = (self.count - 1) / seconds if self.count > 1 and seconds > 0 else FOLDER_RATE_HZ
        info = self._topic.removesuffix("/compressed").rpartition("/")[0] + "/camera_info"
        self._info_topic = info if types.get(info) == INFO_TYPE else None

    def listen(
        self, topic: str, callback: Callable[[Any], None], kind: type | None = None, latched: bool = False
    ) -> Callable[[], object]:
        """Hand a topic's messages to `callback` when an iteration passes them, until the returned function is called.

        They are of the ROS class `kind`; without one, rosbags' own with the same attributes. Those of a `latched` topic come
        before all else, as a node gets them. Raises InputError if the topic is of another type; one that is not there is silent.
        """
        wanted = kind and f"{kind.__module__.partition('.')[0]}/msg/{kind.__name__}"
        found = self._types.get(topic)
        if topic == self._topic:
            raise InputError(f"{self._path}: {topic} holds the camera's images; remap the sensor's topic to another")
        if wanted and found not in (None, wanted):
            raise InputError(f"{self._path}: {topic} is {found}; expected {wanted}: remap the topic for {found}")
        self._listeners[topic] = _Listener(callback, kind, latched)
        return partial(self._listeners.pop, topic, None)

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
            if self._info_topic:  # the first image is often recorded before its camera_info
                info = next((camera_info_message(message) for _, _, message in self._messages(reader, self._info_topic)), None)
            latched = {topic for topic, listener in self._listeners.items() if listener.latched}
            for topic, _, message in self._messages(reader, *latched):
                self._listeners[topic].callback(message)
            others = self._listeners.keys() - latched
            for topic, time_ns, message in self._messages(reader, self._topic, self._info_topic, *others):
                self.time_ns = time_ns
                if topic in others:
                    self._listeners[topic].callback(message)
                    continue
                if topic == self._info_topic:
                    info = camera_info_message(message)
                    continue
                first_ns = time_ns if first_ns is None else first_ns
                image = image_message(message)
                if image is None:
                    self.skipped += 1
                else:
                    yield SourceImage(str(time_ns), (time_ns - first_ns) / 1e9, image, info)

    def _messages(self, reader: AnyReader, *topics: str | None) -> Iterator[tuple[str, int, Any]]:
        """Yield (topic, time [ns], message) of these topics. Raises InputError where the bag is damaged."""
        connections = [connection for connection in reader.connections if connection.topic in topics]
        if not connections:  # which the reader takes for all
            return
        try:
            for connection, time_ns, raw in reader.messages(connections):
                listener = self._listeners.get(connection.topic)
                if listener and listener.kind:
                    message = deserialize_message(bytes(raw), listener.kind)
                else:
                    message = reader.deserialize(raw, connection.msgtype)
                yield connection.topic, time_ns, message
        except Exception as error:  # of the storage, its compression or the disk, each with classes of its own
            reason = f"{type(error).__name__}: {error}"
            raise InputError(f"{self._path}: the bag cannot be read any further ({reason}); is it damaged or cut off?") from error


def image_message(message: Any) -> Image | None:
    """Return a bag's Image or CompressedImage as an Image to publish, or None if the compressed data cannot be decoded."""
    if not hasattr(message, "encoding"):
        try:
            pixels = compressed.decode(message.format, np.asarray(message.data, np.uint8))
        except InputError:
            return None
        image = bgr_message(pixels[..., ::-1])
    else:
        image = Image(height=message.height, width=message.width, encoding=message.encoding, step=message.step)
        image.is_bigendian = message.is_bigendian
        image.data.frombytes(np.ascontiguousarray(message.data))
    stamp = message.header.stamp
    image.header.stamp.sec, image.header.stamp.nanosec = stamp.sec, stamp.nanosec
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

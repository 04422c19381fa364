"""Recorder: writes the camera's and the node's topics into one MCAP file, byte for byte as they were published.

    python -m depth_ros.tools.record OUT.mcap [--ros-args ...]

The time of a message in the file is the moment it was received, so latency is that time minus the stamp in its header.
One JSON line on stdout several times a second says how far the recording is (see `Progress`). SIGINT or SIGTERM ends it;
the file is closed properly then.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Queue
from statistics import median
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import CameraInfo, Image, PointCloud2

INPUTS = {"image": Image, "camera_info": CameraInfo}
OUTPUTS = {"depth/image_rect": Image, "depth/uncertainty": Image, "depth/camera_info": CameraInfo, "points": PointCloud2}
QUEUE_DEPTH = 200  # messages per topic: several seconds of a stalled recorder lose nothing
STATUS_PERIOD_S = 0.2
MCAP_START = b"\x89MCAP0\r\n"
MCAP_DATA_END = 0x0F  # opcode of the record after the last message
# That record, and a footer that says that there is no index: whoever reads the file scans it (mcap.dev/spec).
MCAP_ENDING = struct.pack("<BQI", MCAP_DATA_END, 4, 0) + struct.pack("<BQQQI", 0x02, 20, 0, 0, 0) + MCAP_START
STAMP = struct.Struct("<4xiI")  # CDR encapsulation, then std_msgs/Header's stamp: sec, nanosec


@dataclass
class Progress:
    """What the recorder has seen; printed as one JSON line."""

    ready: bool = False  # every output has a publisher
    images: int = 0
    answers: int = 0  # images for which every output has arrived
    last_image_ns: int = 0  # stamp of the newest image
    last_answer_ns: int = 0  # stamp of the newest image that is answered completely
    rate_hz: float | None = None  # of the last depth images
    latency_ms: float | None = None  # of the last depth images, stamp to receipt, median


class RecordingError(Exception):
    """A recording that could not be written completely; the text says where and why."""


class BagFile:
    """An MCAP file that is written by a thread of its own, so that the disk never delays a receipt time.

    With `most`, put() waits while so many messages are queued: for a writer that could fill the memory.
    """

    def __init__(self, path: Path, most: int = 0) -> None:
        self.path = path
        self.error: Exception | None = None
        self._folder = path.with_name(f".{path.name}.partial")  # rosbags writes folders; ours holds one file
        shutil.rmtree(self._folder, ignore_errors=True)
        self._typestore = get_typestore(Stores.ROS2_JAZZY)
        self._writer = Writer(self._folder, version=Writer.VERSION_LATEST, storage_plugin=StoragePlugin.MCAP)
        self._writer.open()
        self._queue: Queue[tuple[Any, int, bytes] | None] = Queue(most)
        self._thread = threading.Thread(target=self._write, name="bag")
        self._thread.start()

    def add_topic(self, topic: str, kind: type) -> Any:
        """Declare a topic of sensor_msgs message class `kind`; return the handle that put() takes."""
        return self._writer.add_connection(topic, f"sensor_msgs/msg/{kind.__name__}", typestore=self._typestore)

    def put(self, handle: Any, receipt_ns: int, data: bytes) -> None:
        """Queue one serialised message."""
        self._queue.put((handle, receipt_ns, data))

    def close(self) -> None:
        """Write what is queued, finish the file and move it to its place: after an error, as much of it as there is.

        Raises RecordingError if anything could not be written.
        """
        self._queue.put(None)
        self._thread.join()
        file = self._folder / f"{self._folder.name}.mcap"
        try:
            self._finish(file)
            file.replace(self.path)
        except Exception as error:
            self.error = self.error or error  # the first one is the cause
        shutil.rmtree(self._folder, ignore_errors=True)
        if self.error is not None:
            raise RecordingError(f"{self.path} cannot be written: {self.error}") from self.error

    def _finish(self, file: Path) -> None:
        if not isinstance(self.error, OSError):
            try:
                self._writer.close()
                return
            except OSError as error:
                self.error = self.error or error
        with suppress(OSError):  # it tries once more to write what it still holds; unclosed, it would do so after the end
            self._writer.storage.bio.close()
        end_after_last_whole_record(file)

    def _write(self) -> None:
        while (item := self._queue.get()) is not None:
            if self.error is not None:
                continue  # put() must not wait for ever
            try:
                self._writer.write(*item)
            except Exception as error:  # of the disk or of rosbags; nobody else would hear of it on this thread
                self.error = error


def end_after_last_whole_record(file: Path) -> None:
    """Make an MCAP file that breaks off somewhere readable again, in place and without needing room. Raises OSError."""
    with file.open("r+b") as stream:
        room = stream.seek(0, os.SEEK_END) - len(MCAP_ENDING)
        end = following = len(MCAP_START)
        while following <= room:
            end = stream.seek(following)
            opcode, length = stream.read(1)[0], int.from_bytes(stream.read(8), "little")
            if opcode == MCAP_DATA_END:
                break
            following = end + 9 + length
        stream.seek(end)
        stream.truncate()
        stream.write(MCAP_ENDING)


class Recorder(Node):  # type: ignore[misc]
    """Subscribes reliably to everything the bag holds; messages stay serialised."""

    def __init__(self, bag: BagFile) -> None:
        super().__init__("recorder")
        self.progress = Progress()
        self._bag = bag
        self._recent: deque[tuple[int, int]] = deque(maxlen=20)  # stamp, receipt of depth images [ns]
        self._missing: dict[int, set[str]] = {}  # stamp -> outputs that have not arrived
        qos = QoSProfile(depth=QUEUE_DEPTH, reliability=ReliabilityPolicy.RELIABLE)
        for topic, kind in (INPUTS | OUTPUTS).items():
            callback = self._receiver(topic, bag.add_topic(self.resolve_topic_name(topic), kind))
            self.create_subscription(kind, topic, callback, qos, raw=True)
        self.create_timer(STATUS_PERIOD_S, self._print_progress)

    def _receiver(self, topic: str, handle: Any) -> Callable[[bytes], None]:
        def receive(data: bytes) -> None:
            receipt_ns = time.time_ns()
            self._bag.put(handle, receipt_ns, data)
            seconds, nanoseconds = STAMP.unpack_from(data)
            self._count(topic, seconds * 1_000_000_000 + nanoseconds, receipt_ns)

        return receive

    def _count(self, topic: str, stamp_ns: int, receipt_ns: int) -> None:
        progress = self.progress
        if topic == "image":
            progress.images += 1
            progress.last_image_ns = max(progress.last_image_ns, stamp_ns)
        if topic == "depth/image_rect":
            self._recent.append((stamp_ns, receipt_ns))
        if topic in OUTPUTS:
            missing = self._missing.setdefault(stamp_ns, set(OUTPUTS))
            missing.discard(topic)
            if not missing:
                del self._missing[stamp_ns]
                progress.answers += 1
                progress.last_answer_ns = max(progress.last_answer_ns, stamp_ns)

    def _print_progress(self) -> None:
        self.progress.ready = all(self.count_publishers(topic) > 0 for topic in OUTPUTS)
        if self._recent:
            self.progress.latency_ms = median(receipt - stamp for stamp, receipt in self._recent) / 1e6
        if len(self._recent) > 1:
            self.progress.rate_hz = (len(self._recent) - 1) * 1e9 / (self._recent[-1][1] - self._recent[0][1])
        print(json.dumps(asdict(self.progress)), flush=True)


def record(path: Path) -> None:
    """Record into `path` until SIGINT or SIGTERM. Raises RecordingError, or OSError if not even a start can be made."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    bag = BagFile(path)
    rclpy.init(args=sys.argv, signal_handler_options=SignalHandlerOptions.NO)
    executor = SingleThreadedExecutor()
    try:
        executor.add_node(Recorder(bag))
        while not stop.is_set() and bag.error is None:
            executor.spin_once(timeout_sec=0.1)
    finally:
        executor.shutdown()
        rclpy.try_shutdown()
        bag.close()


def main() -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m depth_ros.tools.record", description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="MCAP file to write")
    out = parser.parse_args(remove_ros_args(sys.argv)[1:]).out
    try:
        record(out)
    except (OSError, RecordingError) as error:
        print(f"recorder: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

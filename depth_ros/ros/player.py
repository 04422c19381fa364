"""Plays a video, a folder of images or a bag as a camera: `image` and `camera_info`."""

from __future__ import annotations

import csv
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO, Any

import rclpy
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.duration import Duration
from rclpy.exceptions import ParameterException
from rclpy.executors import SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.logging import get_logger
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CameraInfo, Image

from depth_ros.calibration import load_calibration
from depth_ros.ros import messages
from depth_ros.ros.declaration import accept_everyday, qos_of, refuse_unknown, ros_arguments
from depth_ros.ros.parameter_files import warn_of_unread
from depth_ros.ros.sources import FRAME_ID, Source, SourceImage, open_source
from depth_ros.types import CameraModel, InputError

NODE_NAME = "camera_player"
QUEUE = 5
FLUSH_TIMEOUT_S = 5.0  # for reliable subscribers to acknowledge the last images
SETTLE_S = 0.3  # a best-effort subscriber says neither that it is ready nor that it took the last image
RCLError = rclpy_implementation.RCLError
PARAMETERS = {
    "input": ("", "Video file, folder of images, or ROS 2 bag (MCAP or sqlite3)"),
    "topic": ("", "Image topic of the bag; empty: its only one"),
    "camera_info": ("", "ROS camera calibration YAML; empty: the camera_info of the bag"),
    "rate": (0.0, "Images per second; 0: the input's own"),
    "frame_id": ("", "Frame of the images; empty: the bag's, or camera_optical_frame"),
    "loop": (False, "Start again at the end of the input"),
    "index": ("", "CSV file to write, without a header: stamp_ns,name of every published image"),
    "wait_for_subscribers": (0, "Start when `image` has as many subscribers"),
    "wait_timeout_s": (30.0, "Give up waiting for subscribers after this time"),
}


class CameraPlayer(Node):  # type: ignore[misc]  # rclpy has no types
    """Publishes the images of its input at their rate, stamped with the node's clock."""

    def __init__(self) -> None:
        """Open the input. Raises InputError if it, or the calibration, cannot be used."""
        super().__init__(NODE_NAME)
        accept_everyday(self, {name: default for name, (default, _) in PARAMETERS.items()})
        for name, (default, description) in PARAMETERS.items():
            self.declare_parameter(name, default, ParameterDescriptor(description=description, read_only=True))
        refuse_unknown(self, tuple(PARAMETERS))
        source = self._path("input")
        if source is None:
            raise InputError("parameter 'input' is missing; expected a video, a folder of images or a ROS 2 bag")
        if not self._value("rate") >= 0:
            raise InputError(f"rate is {self._value('rate'):g} Hz; expected a positive number, or 0 for the input's own")
        self._source: Source = open_source(source, self._value("topic"))
        calibration = self._path("camera_info")
        self._camera: CameraModel | None = load_calibration(calibration) if calibration else None
        self._image, self._info = self._advertise(Image, "image"), self._advertise(CameraInfo, "camera_info")
        self._executor_of_services = SingleThreadedExecutor()
        self._executor_of_services.add_node(self)
        self.published = 0

    def play(self, stop: threading.Event) -> None:
        """Publish everything (again and again with `loop`) or until `stop`. Raises InputError."""
        try:
            with self._open_index() as index:
                self._play(stop, index)
        except OSError as error:  # of the index: what else is read or written raises InputError
            path = self._value("index")
            raise InputError(f"{path}: the index cannot be written ({error.strerror}); choose another path") from error
        self._image.wait_for_all_acked(Duration(seconds=FLUSH_TIMEOUT_S))
        self._spin_until(time.monotonic() + SETTLE_S, stop)
        skipped = f", {self._source.skipped} that could not be read skipped" if self._source.skipped else ""
        self.get_logger().info(f"{self.published} images published{skipped}")

    def _play(self, stop: threading.Event, index: IO[str] | None) -> None:
        self._wait_for_subscribers(stop)
        start = time.monotonic()
        for due_s, item in schedule(self._source, self._value("rate"), self._value("loop")):
            self._spin_until(start + due_s, stop)
            if stop.is_set():
                return
            self._publish(item, index)

    def close(self) -> None:
        """Release the node."""
        self._executor_of_services.shutdown()
        self.destroy_node()

    def _advertise(self, kind: type, topic: str) -> Any:
        with qos_of(self, topic) as overridable:
            return self.create_publisher(kind, topic, QoSProfile(depth=QUEUE), qos_overriding_options=overridable)

    def _value(self, name: str) -> Any:
        return self.get_parameter(name).value

    def _path(self, name: str) -> Path | None:
        """A file or folder, None if none is given; no shell sees the ~ of a parameter."""
        return Path(self._value(name)).expanduser() if self._value(name) else None

    def _open_index(self) -> AbstractContextManager[IO[str] | None]:
        path = self._path("index")
        return path.open("w", newline="") if path else nullcontext()

    def _publish(self, item: SourceImage, index: IO[str] | None) -> None:
        info = item.info(self._camera, self._value("camera_info"))
        header = item.image.header
        header.frame_id = self._value("frame_id") or header.frame_id or FRAME_ID
        header.stamp = self.get_clock().now().to_msg()
        info.header = header
        self._info.publish(info)  # first: the node answers an image with the newest camera_info
        self._image.publish(item.image)
        self.published += 1
        if index:
            csv.writer(index).writerow((messages.stamp_ns(header), item.name))
            index.flush()

    def _wait_for_subscribers(self, stop: threading.Event) -> None:
        wanted, timeout_s = self._value("wait_for_subscribers"), self._value("wait_timeout_s")
        if not wanted:
            return
        give_up = time.monotonic() + timeout_s
        while (found := self._image.get_subscription_count()) < wanted and not stop.is_set():
            if time.monotonic() > give_up:
                topic = self._image.topic_name
                raise InputError(f"{found} subscribers on {topic} after {timeout_s:g} s; expected {wanted}: is the node running?")
            self._spin_until(time.monotonic() + 0.05, stop)
        self._spin_until(time.monotonic() + SETTLE_S, stop)

    def _spin_until(self, when: float, stop: threading.Event) -> None:
        """Answer parameter services until `when` [s, monotonic]."""
        while not stop.is_set() and (left := when - time.monotonic()) > 0:
            self._executor_of_services.spin_once(timeout_sec=min(left, 0.2))


def schedule(source: Source, rate_hz: float, loop: bool) -> Iterator[tuple[float, SourceImage]]:
    """Yield (seconds since the start, image): every 1 / rate_hz, or by the source's own clock where rate_hz is 0.

    The times are absolute, so that late images do not delay later ones. Raises InputError if no image can be read.
    """
    count, due_s, step_s = 0, 0.0, 0.0
    while True:
        previous_s = None
        for item in source:
            if previous_s is not None:
                step_s = max(0.0, item.time_s - previous_s)
            due_s = count / rate_hz if rate_hz > 0 else due_s + (step_s if count else 0.0)
            previous_s = item.time_s
            count += 1
            yield due_s, item
        if count == 0:
            raise InputError(f"no image of the input could be read ({source.skipped} tried)")
        if not loop:
            return


def main(args: Sequence[str] | None = None) -> int:
    """Play until the end of the input, SIGINT or SIGTERM; return the process's exit code."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        with ros_arguments():
            rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
        player = CameraPlayer()
        try:
            warn_of_unread(player, sys.argv if args is None else args)
            player.play(stop)
        finally:
            player.close()
    except (InputError, ParameterException, RCLError) as error:
        get_logger(NODE_NAME).fatal(" ".join(str(error).split()))
        return 1
    finally:
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())

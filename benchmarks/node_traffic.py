"""Both ends of the node's topics as processes: cameras that send, and a listener that notes when answers come.

    python -m benchmarks.node_traffic send WIDTH HEIGHT RATE SECONDS [CAMERA ...]
    python -m benchmarks.node_traffic listen RECEIPTS.csv [CAMERA ...]

`send` prints one JSON line at its end: images sent per camera and the seconds they took. `listen` writes topic, stamp [ns] and
receipt [ns] of every answer when SIGINT or SIGTERM ends it. Without CAMERA both use the topics of an only camera.
"""

from __future__ import annotations

import csv
import json
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CameraInfo, Image, PointCloud2

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from depth_ros.calibration import load_calibration
from depth_ros.ros import messages
from depth_ros.ros.sources import Folder, bgr_message
from depth_ros.tools.processes import ROOT
from depth_ros.tools.record import STAMP

CLIP = ROOT / "assets" / "street"
DISTINCT = 6  # images, kept in memory and sent again and again: no disk is measured
SETTLE_S = 1.0
ANSWERS = {"depth/image_rect": Image, "depth/uncertainty": Image, "points": PointCloud2}


class Cameras(Node):  # type: ignore[misc]  # rclpy has no types
    """Publishes the street clip at a size, on as many cameras as there are names."""

    def __init__(self, width: int, height: int, names: Sequence[str]) -> None:
        super().__init__("cameras")
        camera = load_calibration(CLIP / "camera.yaml").resized(width, height)
        clip = [item.image for _, item in zip(range(DISTINCT), Folder(CLIP / "image"), strict=False)]
        pixels = [np.frombuffer(image.data, np.uint8).reshape(image.height, image.width, 3) for image in clip]
        self._images = [bgr_message(cv2.resize(p, (width, height), interpolation=cv2.INTER_CUBIC)) for p in pixels]
        self._info = messages.camera_info(camera, self._images[0].header)
        prefixes = [f"{name}/" for name in names] or [""]
        self._publishers_of = [
            (self.create_publisher(CameraInfo, f"{p}camera_info", 5), self.create_publisher(Image, f"{p}image", 5))
            for p in prefixes
        ]

    def heard(self) -> bool:
        """Whether somebody listens to every camera."""
        return all(image.get_subscription_count() for _, image in self._publishers_of)

    def send(self, number: int) -> None:
        """Publish the next image of every camera, all with the same stamp, as cameras with a common trigger do."""
        image = self._images[number % len(self._images)]
        image.header.frame_id = "camera_optical_frame"
        image.header.stamp = self.get_clock().now().to_msg()
        self._info.header = image.header
        for info_publisher, image_publisher in self._publishers_of:
            info_publisher.publish(self._info)
            image_publisher.publish(image)


def send(width: int, height: int, rate_hz: float, seconds: float, names: Sequence[str], stop: threading.Event) -> None:
    """Publish at a rate for a time; what is late is sent as soon as possible, so the count tells the rate that was reached."""
    cameras = Cameras(width, height, names)
    while not cameras.heard() and not stop.wait(0.05):
        pass
    stop.wait(SETTLE_S)
    start = time.monotonic()
    for number in range(round(rate_hz * seconds)):
        wait_s = start + number / rate_hz - time.monotonic()
        if stop.wait(wait_s) if wait_s > 0 else stop.is_set():
            break
        cameras.send(number)
    print(json.dumps({"sent": number + 1, "seconds": time.monotonic() - start}), flush=True)
    stop.wait(SETTLE_S)
    cameras.destroy_node()


def listen(file: Path, names: Sequence[str], stop: threading.Event) -> None:
    """Note the receipts of every answer until told to stop."""
    rows: list[tuple[str, int, int]] = []
    node = Node("listener")
    for prefix in [f"{name}/" for name in names] or [""]:
        for topic, kind in ANSWERS.items():

            def note(data: bytes, topic: str = prefix + topic) -> None:
                receipt_ns = time.time_ns()
                seconds, nanoseconds = STAMP.unpack_from(data)
                rows.append((topic, seconds * 1_000_000_000 + nanoseconds, receipt_ns))

            node.create_subscription(kind, prefix + topic, note, QoSProfile(depth=20), raw=True)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    while not stop.is_set():
        executor.spin_once(timeout_sec=0.1)
    executor.shutdown()
    with file.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(rows)


def main() -> None:
    """Command line, for benchmarks/node.py."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    task, *words = sys.argv[1:]
    if task == "send":
        width, height, rate_hz, seconds, *names = words
        send(int(width), int(height), float(rate_hz), float(seconds), names, stop)
    else:
        listen(Path(words[0]), words[1:], stop)
    rclpy.try_shutdown()


if __name__ == "__main__":
    main()

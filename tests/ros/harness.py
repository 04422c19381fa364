"""What the tests of this folder share: a child process with a log, and a client node with a camera."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, Image, PointCloud2

ROOT = Path(__file__).resolve().parents[2]
NODE = "depth_ros.ros.node"
PLAYER = "depth_ros.ros.player"
TIMEOUT_S = 15.0
LEASE_S = 45.0  # asked for a node by name, the graph may first tell of one that an earlier test killed, while its lease lasts
RESEND_S = 0.3  # best-effort images sent before the reader has matched are lost
OUTPUTS = {
    "depth/image_rect": Image,
    "depth/uncertainty": Image,
    "depth/camera_info": CameraInfo,
    "depth/image_color": Image,
    "points": PointCloud2,
}


def wait_until(condition: Callable[[], Any], what: str | Callable[[], str], timeout_s: float = TIMEOUT_S) -> Any:
    """Return the condition's first true value; AssertionError after `timeout_s`."""
    end = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < end, f"timed out: {what() if callable(what) else what}"
        time.sleep(0.02)
    return value


def shared_memory_files() -> set[str]:
    return {str(path) for path in Path("/dev/shm").glob("*fastrtps_*")}


def _files_in_use() -> set[str]:
    """Shared-memory files that a living process has mapped or open."""
    used = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # ended meanwhile, or not ours
            used |= set(re.findall(r"/dev/shm/\S+", (process / "maps").read_text()))
            used |= {str(link.readlink()) for link in (process / "fd").iterdir()}
    return used


def unused(files: set[str]) -> set[str]:
    """Those of shared-memory files that are there and that no living process uses."""
    return {file for file in files - _files_in_use() if Path(file).exists()}


def handles_signals(pid: int) -> bool:
    """Whether a process handles SIGTERM itself."""
    caught = re.search(r"^SigCgt:\s*([0-9a-f]+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return bool(caught and int(caught[1], 16) & 1 << (signal.SIGTERM - 1))


class RosProcess:
    """A child process with ROS arguments; its output is in `log`."""

    def __init__(
        self, command: Sequence[str], log: Path, ros_args: Sequence[str] = (), parameters: dict[str, object] | None = None,
        env: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        values = [text for name, value in (parameters or {}).items() for text in ("-p", f"{name}:={_yaml(value)}")]
        self._log = log
        with log.open("wb") as stream:
            self._process = subprocess.Popen(
                [*command, "--ros-args", *ros_args, *values],
                stdout=stream, stderr=subprocess.STDOUT, cwd=ROOT, env={**os.environ, **(env or {})},
            )  # fmt: skip
        self.pid = self._process.pid

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def lines(self, level: str) -> list[str]:
        """Log lines of a level (INFO, WARN, ERROR, FATAL)."""
        return [line for line in self.log().splitlines() if f"[{level}]" in line]

    def wait_log(self, text: str, count: int = 1) -> None:
        def found() -> bool:
            return self.log().count(text) >= count or (self._process.poll() is not None and self.log().count(text) >= count)

        wait_until(found, lambda: f"'{text}' in the log:\n{self.log()}")

    def wait_ready(self) -> RosProcess:
        self.wait_log("waiting for images")
        return self

    def running(self) -> bool:
        return self._process.poll() is None

    def wait(self, timeout_s: float = TIMEOUT_S) -> int:
        return self._process.wait(timeout_s)

    def interrupt(self) -> None:
        self._process.send_signal(signal.SIGINT)

    def stop(self) -> int:
        """SIGINT, then SIGKILL after 5 s; return the exit code."""
        if self.running():
            self.interrupt()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
        return self._process.wait()


class Client:
    """Publishes images and camera_info, collects answers, calls services; in its own ROS context."""

    def __init__(self, namespace: str = "") -> None:
        self._context = Context()
        rclpy.init(context=self._context)
        self.node = Node("client", context=self._context, namespace=namespace)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self.images = self.node.create_publisher(Image, "image", 5)
        self.infos = self.node.create_publisher(CameraInfo, "camera_info", 5)
        self.received: dict[str, dict[int, Any]] = defaultdict(dict)  # topic -> stamp [ns] -> message
        self.sent: list[int] = []

    def close(self) -> None:
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    def listen(self, *topics: str, qos: QoSProfile | int = 10, types: dict[str, type] | None = None) -> None:
        for topic in topics:

            def keep(message: Any, topic: str = topic) -> None:
                self.received[topic][stamp(message)] = message

            self.node.create_subscription((types or OUTPUTS)[topic], topic, keep, qos)

    def spin_until(self, condition: Callable[[], Any], what: str | Callable[[], str], timeout_s: float = TIMEOUT_S) -> Any:
        end = time.monotonic() + timeout_s
        while not (value := condition()):
            assert time.monotonic() < end, f"timed out: {what() if callable(what) else what}"
            self._executor.spin_once(timeout_sec=0.05)
        return value

    def send(self, image: Image, info: CameraInfo | None) -> int:
        """Publish with a new stamp, camera_info first; return the stamp [ns]."""
        now = self.node.get_clock().now()
        image.header.stamp = now.to_msg()
        if info is not None:
            info.header = image.header
            self.infos.publish(info)
        self.images.publish(image)
        self.sent.append(now.nanoseconds)
        return now.nanoseconds

    def send_until(self, condition: Callable[[], Any], image: Image, info: CameraInfo | None, what: str) -> Any:
        """Publish every RESEND_S until the condition holds."""
        due = [0.0]

        def check() -> Any:
            if time.monotonic() >= due[0]:
                due[0] = time.monotonic() + RESEND_S
                self.send(image, info)
            return condition()

        return self.spin_until(check, what)

    def ask(self, image: Image, info: CameraInfo, *topics: str) -> list[Any]:
        """Send an image until it is answered on all topics; return the answers to one and the same stamp.

        Sending starts when both sides know of each other.
        """
        self.spin_until(lambda: self.images.get_subscription_count() and self.infos.get_subscription_count(), "node subscribed")
        first = len(self.sent)

        def answered() -> list[int]:
            return [s for s in self.sent[first:] if all(s in self.received[topic] for topic in topics)]

        stamps = self.send_until(answered, image, info, f"answers on {topics}")
        return [self.received[topic][stamps[0]] for topic in topics]

    def call(self, kind: type, service: str, request: Any) -> Any:
        client = self.node.create_client(kind, service)
        self.spin_until(lambda: client.wait_for_service(timeout_sec=0.1), f"service {service}")
        future = client.call_async(request)
        self.spin_until(future.done, f"answer of {service}")
        self.node.destroy_client(client)
        return future.result()


class States:
    """Every DiagnosticStatus published since, oldest first."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.seen: list[DiagnosticStatus] = []
        client.node.create_subscription(DiagnosticArray, "/diagnostics", lambda message: self.seen.extend(message.status), 10)

    def find(self, name: str, level: bytes, text: str, since: int = 0) -> list[DiagnosticStatus]:
        """Those of a name and level whose message has a text, from the number `since` on."""
        return [s for s in self.seen[since:] if s.name == name and s.level == level and text in s.message]

    def wait(self, name: str, level: bytes, text: str, since: int = 0) -> DiagnosticStatus:
        """The last such status, once there is one."""

        def complaint() -> str:
            return f"{name} {level!r} {text}; got {[(s.name, s.level, s.message) for s in self.seen[since:]]}"

        return self._client.spin_until(lambda: self.find(name, level, text, since), complaint)[-1]


def image_message(pixels: np.ndarray, encoding: str, padding: int = 0, is_bigendian: bool = False) -> Image:
    """(H, W[, C]) pixels as a message with `padding` bytes at the end of each row."""
    rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(pixels.shape[0], -1)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=123)
    message = Image(
        height=pixels.shape[0], width=pixels.shape[1], encoding=encoding, step=rows.shape[1], is_bigendian=is_bigendian
    )
    message.header.frame_id = "test_optical_frame"
    message.data.frombytes(np.ascontiguousarray(rows))
    return message


def wall(width: int = 128, height: int = 64, metres: float = 5.0, sigma: float = 0.2) -> Image:
    """Image of which the probe bundle (depth = red / 10, sigma = green / 100) makes a wall."""
    return image_message(np.full((height, width, 3), (round(metres * 10), round(sigma * 100), 200), np.uint8), "rgb8")


def info_message(width: int = 128, height: int = 64, f: float = 100.0, cx: float = 60.0, cy: float = 30.0) -> CameraInfo:
    """Undistorted camera; 128x64 at f = 100 is 64x32 at the probe bundle's training focal length, 50."""
    info = CameraInfo(width=width, height=height, distortion_model="plumb_bob", d=[0.0] * 5)
    info.k = [f, 0.0, cx, 0.0, f, cy, 0.0, 0.0, 1.0]
    info.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    info.p = [f, 0.0, cx, 0.0, 0.0, f, cy, 0.0, 0.0, 0.0, 1.0, 0.0]
    return info


def stamp(message: Any) -> int:
    return message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec


def depth_array(message: Image) -> np.ndarray:
    assert (message.encoding, message.step) == ("32FC1", 4 * message.width)
    return np.frombuffer(message.data, "<f4").reshape(message.height, message.width)


def cloud_array(message: PointCloud2) -> np.ndarray:
    """(rows, cols) structured array, from what the message says of itself."""
    assert message.row_step == message.point_step * message.width
    layout = {"names": [], "formats": [], "offsets": [], "itemsize": message.point_step}
    for field in message.fields:
        assert (field.datatype, field.count) == (7, 1)  # FLOAT32
        layout["names"].append(field.name)
        layout["formats"].append("<f4")
        layout["offsets"].append(field.offset)
    return np.frombuffer(message.data, np.dtype(layout)).reshape(message.height, message.width)


def _yaml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)

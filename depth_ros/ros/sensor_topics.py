"""Where the messages of range sensors, odometry and static transforms come from: a node's subscriptions, or a bag."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from nav_msgs.msg import Odometry
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile

from depth_ros.ros.endpoints import Callback, Endpoints, Undo, best_effort
from depth_ros.ros.range_messages import KINDS
from depth_ros.ros.wiring import mistyped

if TYPE_CHECKING:
    from depth_ros.ros.bag import Bag

ODOMETRY = "odom"
TOPICS: Mapping[str, Mapping[str, type]] = {"range": KINDS, "odometry": {ODOMETRY: Odometry}}  # by scale.source, with their types
TF_STATIC = "/tf_static"  # absolute, as tf2 has it


class SensorTopics(Protocol):
    """Topics by the node's names for them, as in 'range/scan'."""

    def name(self, topic: str) -> str:
        """Return the full name, after remapping."""

    def listen(self, kind: type, topic: str, callback: Callback, queue: int) -> Undo:
        """Hand over messages of a class until undone; InputError if the topic has another type, or on wrong qos_overrides."""

    def listen_static(self, callback: Callback) -> Undo:
        """Hand over what /tf_static holds and gets; InputError as above."""

    def incompatible(self) -> dict[str, str]:
        """By the full name of a topic, which QoS keeps a publisher from it."""

    def mistyped(self, topic: str, kind: type) -> str:
        """Say, as the begin of a sentence, that a topic holds messages of another class; empty if it does not."""

    def warn(self, text: str) -> None:
        """Say what is wrong, once for each text."""

    def now_ns(self) -> int:
        """Return the time, for images without a stamp."""


class NodeTopics:
    """Subscriptions of a node: best effort, which matches every publisher."""

    def __init__(self, node: Node) -> None:
        self._node, self._endpoints = node, Endpoints(node)

    def name(self, topic: str) -> str:
        """See SensorTopics."""
        name: str = self._node.resolve_topic_name(topic)
        return name

    def listen(self, kind: type, topic: str, callback: Callback, queue: int) -> Undo:
        """See SensorTopics."""
        return self._endpoints.subscribe(kind, topic, callback, best_effort(queue))

    def listen_static(self, callback: Callback) -> Undo:
        """See SensorTopics. tf2_msgs is in every ROS 2 install, but not on PyPI: without it there is nothing to hear."""
        try:
            kind = importlib.import_module("tf2_msgs.msg").TFMessage
        except ImportError:
            return lambda: None
        qos = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        return self._endpoints.subscribe(kind, TF_STATIC, callback, qos)

    def incompatible(self) -> dict[str, str]:
        """See SensorTopics."""
        return self._endpoints.incompatible()

    def mistyped(self, topic: str, kind: type) -> str:
        """See SensorTopics."""
        name = self.name(topic)
        wrong = mistyped(self._node, name, kind)
        return wrong and f"{name} {wrong}; "

    def warn(self, text: str) -> None:
        """See SensorTopics."""
        self._node.get_logger().warning(text, once=True)

    def now_ns(self) -> int:
        """See SensorTopics."""
        return int(self._node.get_clock().now().nanoseconds)


class BagTopics:
    """Topics of a bag, heard while its images are read. `names` gives the full name of each, `warn` takes a line."""

    def __init__(self, bag: Bag, names: Mapping[str, str], warn: Callable[[str], None]) -> None:
        self._bag, self._names, self._warn = bag, names, warn
        self._said: set[str] = set()

    def name(self, topic: str) -> str:
        """See SensorTopics."""
        return self._names[topic]

    def listen(self, kind: type, topic: str, callback: Callback, queue: int) -> Undo:
        """See SensorTopics; nothing waits in a queue."""
        return self._bag.listen(self._names[topic], callback, kind)

    def listen_static(self, callback: Callback) -> Undo:
        """See SensorTopics."""
        return self._bag.listen(TF_STATIC, callback, latched=True)

    def incompatible(self) -> dict[str, str]:
        """See SensorTopics; a bag has none."""
        return {}

    def mistyped(self, topic: str, kind: type) -> str:
        """See SensorTopics; a topic of another type was refused by listen()."""
        return ""

    def warn(self, text: str) -> None:
        """See SensorTopics."""
        if text not in self._said:
            self._said.add(text)
            self._warn(text)

    def now_ns(self) -> int:
        """See SensorTopics."""
        return self._bag.time_ns

"""A node's own ends of its topics: QoS that parameters override, and whom that QoS keeps away."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

from rclpy.lifecycle import LifecyclePublisher
from rclpy.node import Node
from rclpy.qos import QoSCompatibility, QoSProfile, ReliabilityPolicy, qos_check_compatible, qos_policy_name_from_kind

from depth_ros.ros.declaration import qos_of

try:
    from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
except ModuleNotFoundError:  # its name in Humble
    from rclpy.qos_event import PublisherEventCallbacks, SubscriptionEventCallbacks

OVERRIDABLE = ("reliability",)  # of the policies that can keep two ends apart
Callback = Callable[[Any], None]
Undo = Callable[[], object]


def best_effort(depth: int) -> QoSProfile:
    """Return the QoS that matches every sensor's driver, reliable or not."""
    return QoSProfile(depth=depth, reliability=ReliabilityPolicy.BEST_EFFORT)


class Endpoints:
    """Makes subscriptions and publishers of a node; whom their QoS does not match is logged, and remembered."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._mismatches: dict[str, str] = {}  # topic -> which QoS kept a publisher or subscriber from it

    def subscribe(self, kind: type, topic: str, callback: Callback, qos: QoSProfile) -> Undo:
        """Hand messages over until undone. Raises InputError on a QoS override."""
        name = self._node.resolve_topic_name(topic)
        events = SubscriptionEventCallbacks(incompatible_qos=partial(self._note, name, "publisher"))
        with qos_of(self._node, topic) as overridable:
            made = self._node.create_subscription(
                kind, topic, callback, qos, event_callbacks=events, qos_overriding_options=overridable
            )
        return partial(self._node.destroy_subscription, made)

    def advertise(self, kind: type, topic: str, qos: QoSProfile) -> LifecyclePublisher:
        """Return a publisher of a lifecycle node. Raises InputError on a QoS override."""
        name = self._node.resolve_topic_name(topic)
        events = PublisherEventCallbacks(incompatible_qos=partial(self._note, name, "subscriber"))
        with qos_of(self._node, topic) as overridable:
            return self._node.create_lifecycle_publisher(
                kind, topic, qos, event_callbacks=events, qos_overriding_options=overridable
            )

    def incompatible(self) -> dict[str, str]:
        """By topic, which QoS keeps a publisher or subscriber from it, as long as that one is there."""
        return {topic: text for topic, text in list(self._mismatches.items()) if self._is_mismatched(topic)}

    def _note(self, topic: str, other: str, event: Any) -> None:
        policy = qos_policy_name_from_kind(event.last_policy_kind).lower()
        ours = ", or ours by qos_overrides" if policy in OVERRIDABLE else ""
        text = f"a {other} has incompatible QoS ({policy}), so that nothing passes: change its {policy}{ours}"
        self._mismatches[topic] = text
        self._node.get_logger().warning(f"'{topic}': {text}")

    def _is_mismatched(self, topic: str) -> bool:
        """Whether a publisher and a subscription that are there, one of them ours, cannot be connected."""
        ends = product(self._node.get_publishers_info_by_topic(topic), self._node.get_subscriptions_info_by_topic(topic))
        ours = self._node.get_name(), self._node.get_namespace()
        return any(
            ours in ((sender.node_name, sender.node_namespace), (receiver.node_name, receiver.node_namespace))
            and qos_check_compatible(sender.qos_profile, receiver.qos_profile)[0] == QoSCompatibility.ERROR
            for sender, receiver in ends
        )

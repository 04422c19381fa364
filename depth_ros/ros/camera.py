"""One camera of the node: its topics in and out, its newest camera_info, and how its images fare."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any, TypeAlias

from rclpy.lifecycle import LifecycleNode, LifecyclePublisher
from rclpy.qos import QoSCompatibility, QoSProfile, ReliabilityPolicy, qos_check_compatible, qos_policy_name_from_kind
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2

from depth_ros.engines import EngineError
from depth_ros.ros import messages
from depth_ros.ros.declaration import qos_of
from depth_ros.ros.health import Health
from depth_ros.ros.params import NodeParams
from depth_ros.ros.sensor_topics import TOPICS
from depth_ros.ros.wiring import Topic, why_silent
from depth_ros.scale import RELATIVE
from depth_ros.types import InputError

try:
    from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
except ModuleNotFoundError:  # its name in Humble
    from rclpy.qos_event import PublisherEventCallbacks, SubscriptionEventCallbacks

METRIC_OUTPUTS = {
    "depth/image_rect": Image,
    "depth/image_rect/compressedDepth": CompressedImage,
    "depth/camera_info": CameraInfo,
    "depth/uncertainty": Image,
    "depth/image_color": Image,
    "points": PointCloud2,
}
RELATIVE_OUTPUTS = {"depth/relative": Image, "depth/relative_uncertainty": Image}  # and no other: nothing there is in metres
QUEUE = 5  # images and answers kept by the middleware; an image waits microseconds there, the newest one wins in the worker
SILENT_S = 5.0  # without an image, before it is reported
JITTER = 0.25  # of max_rate's period, by which an image may come early

ImageMessage: TypeAlias = Image | CompressedImage
HandOver = Callable[["Camera", tuple[ImageMessage, CameraInfo]], None]


class Camera:
    """Advertises at once; `name` stands before its topics, empty for the only camera. Raises InputError on a QoS override."""

    def __init__(self, node: LifecycleNode, name: str, values: Callable[[], NodeParams]) -> None:
        self.name = name
        self.health = Health()
        self._mismatches: dict[str, str] = {}  # topic -> which QoS kept a publisher or subscriber from it
        self._node = node
        self._values = values  # of now
        self.prefix = f"{name}/" if name else ""
        self._info: CameraInfo | None = None
        self._due_s = 0.0  # when max_rate leaves room for the next image
        self._undo: list[Callable[[], object]] = []
        self.publishers: dict[str, LifecyclePublisher] = {}
        try:
            for topic, kind in (RELATIVE_OUTPUTS if values().scale.source == RELATIVE else METRIC_OUTPUTS).items():
                self.publishers[topic] = self._advertise(kind, topic)
        except Exception:  # whatever it is: no publisher is left behind
            self.close()
            raise

    def subscribe(self, hand_over: HandOver) -> None:
        """Hand images over, each with the newest camera_info, until unsubscribe(). Raises InputError on a QoS override."""
        self._info, self._due_s, self.health = None, 0.0, Health()
        self._listen(CameraInfo, self.prefix + "camera_info", self._on_camera_info)
        self._listen(*self.image_topic(), partial(self._on_image, hand_over))

    def unsubscribe(self) -> None:
        """Hand nothing over any more."""
        for undo in self._undo:
            undo()
        self._undo = []

    def close(self) -> None:
        """Give the topics back."""
        self.unsubscribe()
        for publisher in self.publishers.values():
            self._node.destroy_lifecycle_publisher(publisher)
        self.publishers = {}

    @property
    def input_topics(self) -> tuple[str, str]:
        """Names of the image and camera_info topics."""
        return self._image_name(), self._node.resolve_topic_name(self.prefix + "camera_info")

    def topics(self) -> list[Topic]:
        """All of them, those of the sensor that its scale is measured from too."""
        kind, image = self.image_topic()
        heard = {image: kind, self.prefix + "camera_info": CameraInfo}
        heard |= {self.prefix + topic: kind for topic, kind in TOPICS.get(self._values().scale.source, {}).items()}
        sent = {self.prefix + topic: publisher.msg_type for topic, publisher in self.publishers.items()}
        name = self._node.resolve_topic_name
        return [
            Topic(own, name(own), kind, is_input)
            for found, is_input in ((heard, True), (sent, False))
            for own, kind in found.items()
        ]

    def subscribers(self) -> dict[str, int]:
        """How many each output has."""
        return {topic: publisher.get_subscription_count() for topic, publisher in self.publishers.items()}

    @property
    def has_info(self) -> bool:
        """Whether a camera_info has come."""
        return self._info is not None

    @property
    def incompatible(self) -> dict[str, str]:
        """By topic, which QoS keeps a publisher or subscriber from it, as long as that one is there."""
        self._mismatches = {topic: text for topic, text in self._mismatches.items() if self._is_mismatched(topic)}
        return self._mismatches

    def image_topic(self) -> tuple[type, str]:
        """Return type and name of the images' topic; that of compressed ones stands below the one they were made from."""
        topic = self.prefix + "image"
        if self._values().image_transport == "raw":
            return Image, topic
        return CompressedImage, f"{self._node.resolve_topic_name(topic)}/compressed"

    def refuse(self, error: Exception) -> None:
        """Count and log an image that could not be used."""
        known = isinstance(error, InputError | EngineError)
        reason = str(error) if known else "".join(traceback.format_exception(error))
        self.health.frame_refused(reason)
        count = f"{self.health.refused} so far{f', camera {self.name}' if self.name else ''}"
        self._node.get_logger().error(f"image refused ({count}): {reason}", throttle_duration_sec=1.0)

    def missing(self) -> str:
        """Say which input does not arrive and what to do; empty if both do."""
        if self.health.silent_s() > SILENT_S:
            return self.silence()
        return "" if self._info else self._no_info()

    def is_silent(self) -> bool:
        """Whether no image has come yet, or none any more."""
        return not self.health.received or self.health.silent_s() > SILENT_S

    def silence(self) -> str:
        """Say since when there is no image, why as far as can be seen from here, and what to do."""
        topic = self._image_name()
        since = f"for {self.health.silent_s():.0f} s" if self.health.received else "yet"
        kinds = (Image, CompressedImage) if self.image_topic()[0] is Image else (CompressedImage, Image)
        cause = self._cause(topic, kinds, "remap image, or set image_transport")
        return f"no image on {topic} {since}: {cause}"

    def _no_info(self) -> str:
        topic = self.input_topics[1]
        return f"no camera_info on {topic} yet, so no depth: {self._cause(topic, (CameraInfo,), 'remap camera_info')}"

    def _cause(self, topic: str, kinds: tuple[type, ...], remedy: str) -> str:
        """Why nothing comes on an input; see why_silent."""
        return self.incompatible.get(topic) or why_silent(self._node, topic, kinds, remedy)

    def _image_name(self) -> str:
        name: str = self._node.resolve_topic_name(self.image_topic()[1])
        return name

    def _listen(self, kind: type, topic: str, callback: Callable[[Any], None]) -> None:
        name = self._node.resolve_topic_name(topic)
        best_effort = {"reliability": ReliabilityPolicy.BEST_EFFORT}  # matches every camera driver, reliable or not
        events = SubscriptionEventCallbacks(incompatible_qos=partial(self._note_incompatible, name, "publisher"))
        with qos_of(self._node, topic) as overridable:
            subscription = self._node.create_subscription(
                kind, topic, callback, QoSProfile(depth=QUEUE, **best_effort), event_callbacks=events,
                qos_overriding_options=overridable,
            )  # fmt: skip
        self._undo.append(partial(self._node.destroy_subscription, subscription))

    def _advertise(self, kind: type, topic: str) -> LifecyclePublisher:
        name = self._node.resolve_topic_name(self.prefix + topic)
        events = PublisherEventCallbacks(incompatible_qos=partial(self._note_incompatible, name, "subscriber"))
        with qos_of(self._node, self.prefix + topic) as overridable:
            return self._node.create_lifecycle_publisher(
                kind, self.prefix + topic, QoSProfile(depth=QUEUE), event_callbacks=events, qos_overriding_options=overridable
            )

    def _note_incompatible(self, topic: str, other: str, event: Any) -> None:
        policy = qos_policy_name_from_kind(event.last_policy_kind).lower()
        text = f"a {other} has incompatible QoS ({policy}), so that nothing passes: change its {policy}, or ours by qos_overrides"
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

    def _on_camera_info(self, info: CameraInfo) -> None:
        self._info = info

    def _on_image(self, hand_over: HandOver, image: ImageMessage) -> None:
        self.health.image_received(messages.stamp_ns(image.header), self._node.get_clock().now().nanoseconds)
        if self._info is None:
            self._node.get_logger().warning(self._no_info(), throttle_duration_sec=1.0)
        elif self._is_due():
            hand_over(self, (image, self._info))

    def _is_due(self) -> bool:
        """Whether max_rate leaves room for an image that came now."""
        rate_hz, now_s = self._values().max_rate, time.monotonic()
        if rate_hz <= 0:
            return True
        period_s = 1 / rate_hz
        late_s = now_s - self._due_s
        if late_s < -JITTER * period_s:
            return False
        # From due time to due time, so that the rate is kept on average; but what was missed is not made up for.
        self._due_s = (self._due_s if late_s < period_s else now_s) + period_s
        return True

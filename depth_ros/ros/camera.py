"""One camera of the node: its topics in and out, its newest camera_info, and how its images fare."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from rclpy.lifecycle import LifecycleNode, LifecyclePublisher
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2

from depth_ros.engines import EngineError
from depth_ros.ros import messages
from depth_ros.ros.endpoints import Endpoints, best_effort
from depth_ros.ros.health import Health
from depth_ros.ros.params import NodeParams
from depth_ros.ros.sensor_topics import TOPICS
from depth_ros.ros.wiring import Topic, why_silent
from depth_ros.scale import RELATIVE
from depth_ros.types import InputError

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
        self._node, self._endpoints = node, Endpoints(node)
        self._values = values  # of now
        self.prefix = f"{name}/" if name else ""
        self._info: CameraInfo | None = None
        self._due_s = 0.0  # when max_rate leaves room for the next image
        self._undo: list[Callable[[], object]] = []
        self.publishers: dict[str, LifecyclePublisher] = {}
        try:
            for topic, kind in (RELATIVE_OUTPUTS if values().scale.source == RELATIVE else METRIC_OUTPUTS).items():
                self.publishers[topic] = self._endpoints.advertise(kind, self.prefix + topic, QoSProfile(depth=QUEUE))
        except Exception:  # whatever it is: no publisher is left behind
            self.close()
            raise

    def subscribe(self, hand_over: HandOver) -> None:
        """Hand images over, each with the newest camera_info, until unsubscribe(). Raises InputError on a QoS override."""
        self._info, self._due_s, self.health = None, 0.0, Health()
        subscribe, qos = self._endpoints.subscribe, best_effort(QUEUE)
        self._undo.append(subscribe(CameraInfo, self.prefix + "camera_info", self._on_camera_info, qos))
        self._undo.append(subscribe(*self.image_topic(), partial(self._on_image, hand_over), qos))

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
        return self._endpoints.incompatible()

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

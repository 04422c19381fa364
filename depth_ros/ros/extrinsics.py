"""Where a sensor sits beside the camera: as a parameter says, or /tf_static."""

from __future__ import annotations

import importlib
import threading
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile

from depth_ros.scale.poses import OPTICAL_T_BODY, StaticTree, pose_from_quaternion, pose_from_text
from depth_ros.types import Float64Array, InputError

TOPIC = "/tf_static"  # absolute, as tf2 has it


class Extrinsics:
    """The pose of sensors in the camera's optical frame; `given` is the parameter's text, empty for /tf_static.

    tf2_msgs is in every ROS 2 install, but not on PyPI: without it there is the parameter only.
    """

    def __init__(self, node: Node, given: str) -> None:
        self._node, self._lock, self._tree = node, threading.Lock(), StaticTree()
        self._given = OPTICAL_T_BODY @ pose_from_text(given) if given else None
        self._subscription: Any = None
        if self._given is not None:
            return
        try:
            kind = importlib.import_module("tf2_msgs.msg").TFMessage
        except ImportError:
            return
        qos = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._subscription = node.create_subscription(kind, TOPIC, lambda message: self.add(message.transforms), qos)

    def close(self) -> None:
        """Unsubscribe."""
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None

    def add(self, transforms: list[Any]) -> None:
        """Take geometry_msgs/TransformStamped in; one whose rotation is none is reported and left out."""
        for item in transforms:
            move, turn = item.transform.translation, item.transform.rotation
            try:
                pose = pose_from_quaternion([move.x, move.y, move.z], [turn.x, turn.y, turn.z, turn.w])
            except InputError as error:
                self._node.get_logger().warning(f"{TOPIC}: {item.header.frame_id} -> {item.child_frame_id}: {error}", once=True)
                continue
            with self._lock:
                self._tree.add(item.header.frame_id.lstrip("/"), item.child_frame_id.lstrip("/"), pose)

    def optical_T(self, camera: str, sensor: str) -> Float64Array | None:  # noqa: N802 (a transform)
        """Return the pose (4, 4) of frame `sensor` in the camera's optical frame `camera`, None if nothing tells it.

        Raises InputError if /tf_static is no tree.
        """
        if self._given is not None:
            return self._given
        with self._lock:
            return self._tree.between(camera.lstrip("/"), sensor.lstrip("/"))

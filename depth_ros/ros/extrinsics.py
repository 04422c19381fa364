"""Where a sensor sits beside the camera: as a parameter says, or /tf_static."""

from __future__ import annotations

import threading
from typing import Any

from depth_ros.ros.endpoints import Undo
from depth_ros.ros.sensor_topics import TF_STATIC, SensorTopics
from depth_ros.scale.poses import OPTICAL_T_BODY, StaticTree, pose_from_quaternion, pose_from_text
from depth_ros.types import Float64Array, InputError


class Extrinsics:
    """The pose of sensors in the camera's optical frame; `given` is the parameter's text, empty for /tf_static."""

    def __init__(self, topics: SensorTopics, given: str) -> None:
        self._topics, self._lock, self._tree = topics, threading.Lock(), StaticTree()
        self._given = OPTICAL_T_BODY @ pose_from_text(given) if given else None
        self._undo: Undo = lambda: None
        if self._given is None:
            self._undo = topics.listen_static(lambda message: self.add(message.transforms))

    def close(self) -> None:
        """Unsubscribe."""
        self._undo()

    def add(self, transforms: list[Any]) -> None:
        """Take geometry_msgs/TransformStamped in; one whose rotation is none is reported and left out."""
        for item in transforms:
            move, turn = item.transform.translation, item.transform.rotation
            try:
                pose = pose_from_quaternion([move.x, move.y, move.z], [turn.x, turn.y, turn.z, turn.w])
            except InputError as error:
                self._topics.warn(f"{TF_STATIC}: {item.header.frame_id} -> {item.child_frame_id}: {error}")
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

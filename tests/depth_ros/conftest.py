"""A recording made by hand, for what reads recordings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from depth_ros.tools.recording import Answer

RecordingWriter = Callable[[Sequence[Answer]], Path]


@pytest.fixture
def write_recording(tmp_path: Path) -> RecordingWriter:
    """Write answers into an MCAP file as the recorder would, the depth image received at `receipt_ns`."""
    store = get_typestore(Stores.ROS2_JAZZY)
    types = store.types

    def messages(answer: Answer) -> dict[str, Any]:
        stamp = types["builtin_interfaces/msg/Time"](*divmod(answer.stamp_ns, 10**9))
        header = types["std_msgs/msg/Header"](stamp, "camera")
        camera = answer.camera

        def image(encoding: str, array: np.ndarray) -> Any:
            data = np.ascontiguousarray(array).view(np.uint8).ravel()
            height, width = array.shape[:2]
            return types["sensor_msgs/msg/Image"](header, height, width, encoding, 0, data.size // height, data)

        k = [camera.fx, 0, camera.cx, 0, camera.fy, camera.cy, 0, 0, 1]
        p = [camera.fx, 0, camera.cx, 0, 0, camera.fy, camera.cy, 0, 0, 0, 1, 0]
        info = types["sensor_msgs/msg/CameraInfo"](
            header, camera.height, camera.width, "plumb_bob", np.zeros(5), np.array(k, float), np.eye(3).ravel(),
            np.array(p, float), 0, 0, types["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False),
        )  # fmt: skip
        field = types["sensor_msgs/msg/PointField"]
        rows, columns = answer.cloud.shape
        cloud = types["sensor_msgs/msg/PointCloud2"](
            header, rows, columns, [field(name, 4 * i, 7, 1) for i, name in enumerate(answer.cloud.dtype.names)],
            False, 20, 20 * columns, np.ascontiguousarray(answer.cloud).view(np.uint8).ravel(), False,
        )  # fmt: skip
        return {
            "/image": image("rgb8", answer.image), "/depth/image_rect": image("32FC1", answer.depth),
            "/depth/uncertainty": image("32FC1", answer.sigma), "/depth/camera_info": info, "/points": cloud,
        }  # fmt: skip

    def write(answers: Sequence[Answer]) -> Path:
        folder = tmp_path / "recording"
        with Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
            connections: dict[str, Any] = {}
            for answer in answers:
                for topic, message in messages(answer).items():
                    if topic not in connections:
                        connections[topic] = writer.add_connection(topic, message.__msgtype__, typestore=store)
                    data = store.serialize_cdr(message, message.__msgtype__)
                    writer.write(connections[topic], answer.receipt_ns, data)
        return folder / "recording.mcap"

    return write

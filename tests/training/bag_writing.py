"""Writes ROS 2 bags as a robot records them, with rosbags: frames, camera_info, odometry."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from depth_ros.types import CameraModel

STORE = get_typestore(Stores.ROS2_JAZZY)
T = STORE.types
START_S = 1_700_000_000.0
TOPIC, INFO, ODOMETRY = "/camera/image_raw", "/camera/camera_info", "/odom"

Written = tuple[str, float, Any]  # topic, time [s], message


def header(time_s: float, frame: str = "camera") -> Any:
    seconds, rest = divmod(round(1e9 * time_s), 10**9)
    return T["std_msgs/msg/Header"](T["builtin_interfaces/msg/Time"](seconds, rest), frame)


def raw(image: np.ndarray, time_s: float, encoding: str = "rgb8", topic: str = TOPIC, frame: str = "camera") -> Written:
    pixels = image if encoding == "rgb8" else image[..., ::-1] if encoding == "bgr8" else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    data = np.ascontiguousarray(pixels).ravel()
    height, width = image.shape[:2]
    return topic, time_s, T["sensor_msgs/msg/Image"](header(time_s, frame), height, width, encoding, 0, data.size // height, data)


def compressed(image: np.ndarray, time_s: float, kind: str = "jpeg", cut: float = 1.0, topic: str = TOPIC) -> Written:
    data = cv2.imencode(f".{kind}", image[..., ::-1])[1].ravel()
    data = data[: round(cut * data.size)]
    return f"{topic}/compressed", time_s, T["sensor_msgs/msg/CompressedImage"](header(time_s), kind, data)


def info(
    camera: CameraModel, time_s: float, D: Sequence[float] = (0.0,) * 5, topic: str = INFO, binning: int = 0,
    R: np.ndarray | None = None,
) -> Written:  # fmt: skip
    P = np.zeros((3, 4))
    P[:, :3] = camera.K
    region = T["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
    matrices = camera.K.ravel(), (np.eye(3) if R is None else R).ravel(), P.ravel()
    kind = T["sensor_msgs/msg/CameraInfo"]
    message = kind(header(time_s), camera.height, camera.width, "plumb_bob", np.array(D), *matrices, binning, binning, region)
    return topic, time_s, message


def odometry(
    position: Sequence[float], time_s: float, speed: float = 0.0, topic: str = ODOMETRY,
    quaternion: Sequence[float] = (0, 0, 0, 1), frame: str = "base_link",
) -> Written:  # fmt: skip
    """Position [m], orientation xyzw."""
    point = T["geometry_msgs/msg/Point"](*map(float, position))
    pose = T["geometry_msgs/msg/Pose"](point, T["geometry_msgs/msg/Quaternion"](*map(float, quaternion)))
    with_covariance = T["geometry_msgs/msg/PoseWithCovariance"](pose, np.zeros(36))
    moving = T["geometry_msgs/msg/TwistWithCovariance"](twist(speed), np.zeros(36))
    return topic, time_s, T["nav_msgs/msg/Odometry"](header(time_s, "odom"), frame, with_covariance, moving)


def twist_stamped(speed: float, time_s: float, topic: str = "/wheels") -> Written:
    return topic, time_s, T["geometry_msgs/msg/TwistStamped"](header(time_s), twist(speed))


def twist(speed: float) -> Any:
    vector = T["geometry_msgs/msg/Vector3"]
    return T["geometry_msgs/msg/Twist"](vector(speed, 0.0, 0.0), vector(0.0, 0.0, 0.3))


def static(*links: tuple[str, str, Sequence[float], Sequence[float]], time_s: float = START_S) -> Written:
    """/tf_static with links of parent, child, translation [m] and quaternion xyzw."""
    kind, vector, turn = (T[f"geometry_msgs/msg/{name}"] for name in ("TransformStamped", "Vector3", "Quaternion"))
    transforms = [
        kind(header(time_s, parent), child, T["geometry_msgs/msg/Transform"](vector(*map(float, t)), turn(*map(float, q))))
        for parent, child, t, q in links
    ]
    return "/tf_static", time_s, T["tf2_msgs/msg/TFMessage"](transforms)


def write_bag(folder: Path, messages: Iterable[Written], storage: str = "mcap", recorded: Sequence[float] = ()) -> Path:
    """Write the messages in order, recorded at their own time or at `recorded`; return the folder."""
    plugin = StoragePlugin.MCAP if storage == "mcap" else StoragePlugin.SQLITE3
    connections: dict[str, Any] = {}
    with Writer(folder, version=9, storage_plugin=plugin) as writer:
        for index, (topic, time_s, message) in enumerate(messages):
            kind = message.__msgtype__
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=STORE)
            time_ns = round(1e9 * (recorded[index] if recorded else time_s))
            writer.write(connections[topic], time_ns, STORE.serialize_cdr(message, kind))
    return folder

"""Bags as a camera's driver and recorder leave them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore


def write_bag(path: Path, storage: StoragePlugin, compressed: bool, topics: tuple[str, ...] = ("/cam/image",)) -> None:
    """Four mono8 images of 64x32, grey 0, 40, 80, 120, every 50 ms from 0 on, with a camera_info that has distortion."""
    store = get_typestore(Stores.ROS2_JAZZY)
    time, header, roi = (
        store.types[name] for name in ("builtin_interfaces/msg/Time", "std_msgs/msg/Header", "sensor_msgs/msg/RegionOfInterest")
    )
    kind = store.types["sensor_msgs/msg/CompressedImage" if compressed else "sensor_msgs/msg/Image"]
    info_kind = store.types["sensor_msgs/msg/CameraInfo"]
    suffix = "/compressed" if compressed else ""
    with Writer(path, version=9, storage_plugin=storage) as writer:
        connections = [writer.add_connection(topic + suffix, kind.__msgtype__, typestore=store) for topic in topics]
        info_connection = writer.add_connection("/cam/camera_info", info_kind.__msgtype__, typestore=store)
        for number in range(4):
            at = number * 50_000_000
            head = header(time(0, at), "bag_frame")
            pixels = np.full((32, 64), 40 * number, np.uint8)
            data = cv2.imencode(".png", pixels)[1].ravel() if compressed else pixels.ravel()
            image = kind(head, "png", data) if compressed else kind(head, 32, 64, "mono8", 0, 64, data)
            for connection in connections:
                writer.write(connection, at, store.serialize_cdr(image, kind.__msgtype__))
            K, P = np.array([50.0, 0, 31, 0, 51, 15, 0, 0, 1]), np.array([50.0, 0, 31, 0, 0, 51, 15, 0, 0, 0, 1, 0])
            info = info_kind(
                head, 32, 64, "plumb_bob", np.array([0.1, 0, 0, 0, 0]), K, np.eye(3).ravel(), P, 0, 0, roi(0, 0, 0, 0, False)
            )
            writer.write(info_connection, at + 1, store.serialize_cdr(info, info_kind.__msgtype__))

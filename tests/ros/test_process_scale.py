"""Bags with a range sensor or odometry, answered in metres without a node; and bags whose scale is nowhere."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("rosbags", reason="reads and writes bags")

from corridor import make_texture, moved, shot
from harness import info_message
from rclpy.serialization import serialize_message
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from test_scaling import AT_CAMERA, odometry, scan, scene, true_depth

from depth_ros.ros.bag import Bag
from depth_ros.ros.params import NodeParams, ScaleParams
from depth_ros.ros.scaling import Scaling
from depth_ros.ros.sensor_topics import BagTopics
from depth_ros.tools import recording
from depth_ros.tools.offline.job import Job, run
from depth_ros.tools.process import main
from depth_ros.types import InputError

STORE = get_typestore(Stores.ROS2_JAZZY)
RANGES = {f"range/{name}": f"/range/{name}" for name in ("scan", "range", "points", "depth")}
STEP_NS = 100_000_000


def stamped(message, ns, frame=""):
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(ns, 10**9)
    message.header.frame_id = frame or message.header.frame_id
    return message


def write(path: Path, messages) -> Path:
    """A bag of (topic, time [ns], message), ROS messages or, of a type without a class here, ours of rosbags."""
    connections = {}
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        for topic, ns, message in messages:
            kind = (
                getattr(message, "__msgtype__", None) or f"{type(message).__module__.split('.')[0]}/msg/{type(message).__name__}"
            )
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=STORE)
            own = hasattr(message, "__msgtype__")
            writer.write(connections[topic], ns, STORE.serialize_cdr(message, kind) if own else serialize_message(message))
    return path


def drive(scan_topic="/range/scan", dies_after=100):
    """Ten images at 10 Hz from one second on, each 10 ms after a scan."""
    for number in range(10):
        ns = 10**9 + number * STEP_NS
        yield "/cam/camera_info", ns - 20_000_000, stamped(info_message(), ns, "camera")
        if number < dies_after:
            yield scan_topic, ns - 10_000_000, stamped(scan(), ns - 10_000_000)
        yield "/cam/image", ns, stamped(scene(), ns, "camera")


def laser_at_camera():
    """/tf_static, whose class only rosbags has everywhere: in the camera, turned from optical axes (z forward) to x forward."""
    types = {name.rpartition("/")[2]: kind for name, kind in STORE.types.items() if "/msg/" in name}
    header = types["Header"](types["Time"](0, 0), "camera")
    turn = types["Quaternion"](0.5, -0.5, 0.5, 0.5)
    transform = types["Transform"](types["Vector3"](0.0, 0.0, 0.0), turn)
    return types["TFMessage"]([types["TransformStamped"](header, "laser", transform)])


@pytest.fixture
def job(tmp_path, make_bundle) -> Job:
    scale = ScaleParams(source="range", sensor_pose=AT_CAMERA)
    params = NodeParams(model=str(make_bundle(kind="scale_invariant").path), engine="onnxruntime", threads=1, scale=scale)
    (tmp_path / "out").mkdir()
    return Job(tmp_path / "drive", tmp_path / "out" / "drive", ("bag",), params, sensors=RANGES)


def do(job):
    return run(job, lambda now, expected: None, lambda: False)


def depths(job):
    return [answer.depth for answer in recording.answers(job.out / "depth.mcap")]


def check_metres(job, count=10):
    found = depths(job)
    assert len(found) == count
    for depth in found:
        np.testing.assert_allclose(np.nanmedian(depth / true_depth(np.arange(128))), 1.0, rtol=0.03)


def test_a_scan_of_the_bag_makes_metres(job):
    write(job.source, drive())
    outcome = do(job)
    assert (outcome.failure, outcome.answered, outcome.refused) == ("", 10, 0)
    check_metres(job)


def test_the_bags_static_transforms_say_where_the_sensor_sits(job):
    """Also where they were recorded after the last image."""
    unsaid = replace(job, params=replace(job.params, scale=replace(job.params.scale, sensor_pose="")))
    write(job.source, drive())
    assert "where 'laser' sits beside 'camera' is unknown: publish it on /tf_static" in do(unsaid).failure
    said = replace(unsaid, source=job.source.with_name("said"))
    write(said.source, [*drive(), ("/tf_static", 3 * 10**9, laser_at_camera())])
    assert do(said).answered == 10
    check_metres(said)


def test_images_from_when_the_scan_has_died_are_counted_as_refused(job):
    write(job.source, drive(dies_after=4))
    short = replace(job.params.scale, timeout_s=0.35)
    outcome = do(replace(job, params=replace(job.params, scale=short)))
    assert 5 <= outcome.answered < 10
    assert outcome.answered + outcome.refused == 10
    assert "no scale from range, so no metres: no range within 0.2 s" in outcome.refusal


def test_a_bag_without_the_sensor_says_what_to_remap(job):
    write(job.source, drive("/front/laser"))
    failure = do(job).failure
    assert "no image could be answered (0 unreadable, 10 refused: no scale from range" in failure
    assert "nothing heard on /range/scan" in failure


def test_names_are_remapped_and_parameters_given_as_to_the_node(job, tmp_path, capfd):
    write(job.source, drive("/front/laser"))
    given = [job.source, "--out", tmp_path / "out", "--model", job.params.model, "--engine", "onnxruntime", "--ros-args",
             "-p", "scale.source:=range", "-p", f"scale.sensor_pose:={AT_CAMERA}", "-r", "range/scan:=/front/laser"]  # fmt: skip
    assert main([str(word) for word in given]) == 0
    check_metres(job)
    assert main([str(word) for word in given[:-1]] + ["range/scan:=/other"]) == 1
    assert "was made with sensors {" in capfd.readouterr().err  # other ones than it would have now


def test_what_was_made_without_sensors_before_there_were_any_is_still_known(job):
    write(job.source, drive())
    plain = replace(job, params=replace(job.params, scale=ScaleParams(source="fixed", factor=2.0)), sensors={})
    assert do(plain).answered == 10
    assert "sensors" not in json.loads((plain.out / "manifest.json").read_text())
    assert do(plain).finished_before


@pytest.mark.parametrize(
    ("topic", "said"),
    [("/cam/camera_info", "is sensor_msgs/msg/CameraInfo; expected sensor_msgs/msg/LaserScan"), ("/cam/image", "images")],
)
def test_a_topic_of_another_type_is_refused(job, topic, said):
    write(job.source, drive())
    outcome = do(replace(job, sensors={**RANGES, "range/scan": topic}))
    assert f"{topic} " in outcome.failure
    assert said in outcome.failure


def test_only_a_bag_holds_a_sensor(job, tmp_path):
    (tmp_path / "folder").mkdir()
    cv2.imwrite(str(tmp_path / "folder" / "1.png"), np.zeros((64, 128, 3), np.uint8))
    assert "whose sensor only a bag can hold" in do(replace(job, source=tmp_path / "folder")).failure


def test_odometry_of_the_bag_gives_the_scale(job):
    """As in the node (test_scaling.py): metres are three times the prediction's unit."""
    frames = [shot(make_texture(), moved(0.3 * k), 100.0 + 0.2 * k) for k in range(8)]
    times = [(round((99.9 + 0.05 * k) * 1e9), odometry(99.9 + 0.05 * k, 1.5 * (0.05 * k - 0.1))) for k in range(40)]
    seen = [("/cam/image", frame.stamp_ns, stamped(scene(), frame.stamp_ns)) for frame, *_ in frames]
    path = write(job.source, sorted([("/odom", ns, message) for ns, message in times] + seen, key=lambda item: item[1]))
    recorded = Bag(path, "")
    scaling = Scaling(BagTopics(recorded, {"odom": "/odom"}, print), ScaleParams(source="odometry"), "scale_invariant")
    scale = None
    for item, (frame, prediction, _) in zip(recorded, frames, strict=True):
        assert round(item.time_s, 1) == round(frame.stamp_ns / 1e9 - 100, 1)
        try:
            scale = scaling.scale_for(frame, prediction)
        except InputError:
            continue
    assert scale is not None
    assert scale.factor == pytest.approx(3.0, rel=0.03)

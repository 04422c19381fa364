"""Several cameras on one engine: each with its own topics, none in another's way."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from harness import NODE, Client, cloud_array, depth_array, image_message, info_message, wall
from rclpy.executors import SingleThreadedExecutor

from depth_ros.ros.node import SUCCESS, MonoDepthNode

NAMES = ("front", "left")


@pytest.fixture
def node(start, make_bundle):
    names = "[" + ", ".join(NAMES) + "]"
    return start(NODE, model=make_bundle().path, camera_names=names, report_period_s=0.5).wait_ready()


@pytest.fixture
def cameras():
    """A client in the namespace of each camera."""
    made = [Client(name) for name in NAMES]
    yield made
    for client in made:
        client.close()


def test_each_camera_is_answered_on_its_own_topics_with_its_own_geometry(node, cameras):
    front, left = cameras
    for client in cameras:
        client.listen("depth/image_rect", "depth/camera_info", "points")
    depth, info, points = front.ask(wall(), info_message(), "depth/image_rect", "depth/camera_info", "points")
    np.testing.assert_allclose(depth_array(depth), np.full((64, 128), 5.0), rtol=1e-6)
    assert cloud_array(points).shape == (32, 64)
    assert info.k[0] == 100.0
    # Four times the pixels at the same focal length: seen at half of it by the network, so at half the depth.
    depth, info, _ = left.ask(
        wall(256, 128, metres=8.0), info_message(256, 128), "depth/image_rect", "depth/camera_info", "points"
    )
    np.testing.assert_allclose(depth_array(depth), np.full((128, 256), 4.0), rtol=1e-6)
    assert (info.width, info.k[0]) == (256, 100.0)
    assert set(front.received["depth/image_rect"]) <= set(front.sent)
    assert set(left.received["depth/image_rect"]) <= set(left.sent)


def test_images_that_come_together_are_inferred_together_and_keep_apart(node, cameras):
    """Stamps, sizes and values of a batch are not mixed up; what comes at once is answered at once."""
    for client in cameras:
        client.listen("depth/image_rect")
        client.ask(wall(), info_message(), "depth/image_rect")
        client.received.clear()
        client.sent.clear()
    for round_ in range(5):
        expected = {}
        for client, metres in zip(cameras, (3.0 + round_, 12.0 + round_), strict=True):
            expected[client] = (client.send(wall(metres=metres), info_message()), metres)
        for client, (sent, metres) in expected.items():
            client.spin_until(lambda c=client, s=sent: s in c.received["depth/image_rect"], "answer")
            np.testing.assert_allclose(depth_array(client.received["depth/image_rect"][sent]), metres, rtol=1e-6)


class Counted:
    """An engine, and how many images each of its inferences had."""

    def __init__(self, engine):
        self._engine, self.sizes = engine, []

    def infer(self, images):
        self.sizes.append(len(images))
        return self._engine.infer(images)

    def __getattr__(self, name):
        return getattr(self._engine, name)


@pytest.fixture
def counted(make_bundle):
    """The engine of an active node in this process, which waits long for the other camera's image."""
    chosen = {"model": make_bundle().path, "engine": "onnxruntime", "camera_names": "[front, left]", "batch_window_ms": "900.0"}
    rclpy.init(args=["--ros-args", *(text for name, value in chosen.items() for text in ("-p", f"{name}:={value}"))])
    node, executor, stop = MonoDepthNode(threading.Event()), SingleThreadedExecutor(), threading.Event()
    assert node.trigger_configure() == SUCCESS
    engine = node._estimator.engine = Counted(node._estimator.engine)
    assert node.trigger_activate() == SUCCESS
    executor.add_node(node)

    def spin() -> None:
        while not stop.is_set():
            executor.spin_once(timeout_sec=0.05)

    thread = threading.Thread(target=spin)
    thread.start()
    yield engine
    stop.set()
    thread.join()
    node.close()
    executor.shutdown()
    node.destroy_node()
    rclpy.shutdown()


def test_images_within_the_window_are_one_call_of_the_engine(counted, cameras):
    def both() -> None:
        expected = {}
        for client in cameras:
            expected[client] = client.send(wall(), info_message())
            time.sleep(0.1)
        for client, sent in expected.items():
            client.spin_until(lambda c=client, s=sent: s in c.received["depth/image_rect"], "answer")

    for client in cameras:
        client.listen("depth/image_rect")
        client.ask(wall(), info_message(), "depth/image_rect")
    both()  # whatever ask() sent is behind us
    before = len(counted.sizes)
    for _ in range(3):
        both()
    assert counted.sizes[before:] == [2, 2, 2]


def test_bad_images_of_one_camera_cost_another_nothing(node, cameras):
    front, left = cameras
    for client in cameras:
        client.listen("depth/image_rect")
        client.ask(wall(), info_message(), "depth/image_rect")
    strange = image_message(np.zeros((64, 128), np.uint8), "jpeg2000")
    for metres in (4.0, 6.0, 9.0):
        front.send(strange, info_message())
        (depth,) = left.ask(wall(metres=metres), info_message(), "depth/image_rect")
        np.testing.assert_allclose(depth_array(depth), metres, rtol=1e-6)
    node.wait_log("camera front): image encoding 'jpeg2000'")
    front.ask(wall(), info_message(), "depth/image_rect")


def test_a_camera_that_dies_does_not_hold_up_the_other(node, cameras):
    front, left = cameras
    left.listen("depth/image_rect")
    front.listen("depth/image_rect")
    front.ask(wall(), info_message(), "depth/image_rect")
    left.ask(wall(), info_message(), "depth/image_rect")
    for metres in (7.0, 8.0, 9.0):
        (depth,) = left.ask(wall(metres=metres), info_message(), "depth/image_rect")
        np.testing.assert_allclose(depth_array(depth), metres, rtol=1e-6)
    (depth,) = front.ask(wall(metres=6.0), info_message(), "depth/image_rect")  # it is back
    np.testing.assert_allclose(depth_array(depth), 6.0, rtol=1e-6)


def test_every_camera_has_a_diagnostic_of_its_own(node, cameras):
    front = cameras[0]
    seen: list[DiagnosticStatus] = []
    front.node.create_subscription(DiagnosticArray, "/diagnostics", lambda message: seen.extend(message.status), 10)
    front.listen("depth/image_rect")

    def states(name: str, text: str) -> list[DiagnosticStatus]:
        return [s for s in seen if s.name == f"mono_depth: {name} frames" and text in s.message]

    front.send_until(lambda: states("front", "answered/s"), wall(), info_message(), lambda: str(seen[-3:]))
    front.spin_until(
        lambda: states("left", "no image on /left/image yet: it has a publisher that sends nothing"), lambda: str(seen[-3:])
    )
    values = {item.key: item.value for item in states("front", "answered/s")[-1].values}
    assert values["subscribers of depth/image_rect"] == "1"
    assert values["camera_info"] == "received"


def test_names_that_cannot_be_topics_are_refused(start, make_bundle):
    process = start(NODE, model=make_bundle().path, camera_names="[front, 'left eye']")
    assert process.wait() == 1
    (line,) = process.lines("FATAL")
    assert "camera_names holds 'left eye'" in line

"""What goes wrong around a running node: it goes on, says what it sees, and gives everything back."""

from __future__ import annotations

import math
import os
import signal
import time
from pathlib import Path
from random import Random

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from diagnostic_msgs.msg import DiagnosticStatus
from harness import (
    NODE,
    OUTPUTS,
    PLAYER,
    Client,
    RosProcess,
    depth_array,
    handles_signals,
    image_message,
    info_message,
    shared_memory_files,
    unused,
    wait_until,
    wall,
)  # fmt: skip
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo, Image

from depth_ros.calibration import save_calibration
from depth_ros.tools.processes import shared_memory_of
from depth_ros.types import CameraModel

OK, WARN, STALE = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.STALE
DEPTH = "depth/image_rect"
SIGNALS, AT_ONCE = 50, 10  # starts that are interrupted, and how many of them run beside each other
LATEST_S = 2.0  # after which a node is interrupted, from where its start or its answers begin


def answer_is(client: Client, metres: float, image: Image, info: CameraInfo) -> None:
    (depth,) = client.ask(image, info, DEPTH)
    assert (depth.width, depth.height) == (info.width, info.height)
    np.testing.assert_allclose(depth_array(depth), metres, rtol=1e-6)


# ---- cameras that come and go


def play(start, folder: Path) -> RosProcess:
    """A camera as a process of its own: one image, again and again."""
    folder.mkdir(exist_ok=True)
    cv2.imwrite(str(folder / "0.png"), np.full((64, 128, 3), (200, 20, 50), np.uint8))  # BGR of a wall at 5 m
    save_calibration(CameraModel(128, 64, 100.0, 100.0, 60.0, 30.0), folder / "camera.yaml")
    settings = {"input": folder, "camera_info": folder / "camera.yaml", "rate": 20.0, "loop": True}
    return start(PLAYER, **settings)


def silences(node: RosProcess) -> list[str]:
    return [line for line in node.lines("WARN") if "no image on /image for" in line]


def test_a_camera_that_is_killed_and_started_again(start, client, make_bundle, tmp_path, states):
    node = start(NODE, model=make_bundle().path, report_period_s=1.0).wait_ready()
    client.listen(DEPTH)
    camera = play(start, tmp_path / "images")
    client.spin_until(lambda: client.received[DEPTH], "answers to the first")
    os.kill(camera.pid, signal.SIGKILL)
    camera.wait()
    states.wait("mono_depth: frames", STALE, "no image on /image for")
    wait_until(lambda: silences(node), lambda: node.log())
    client.received.clear()
    mark = len(states.seen)
    play(start, tmp_path / "images")
    client.spin_until(lambda: client.received[DEPTH], "answers to the second")
    states.wait("mono_depth: frames", OK, "answered/s", mark)
    assert node.running()
    assert len(silences(node)) == 1  # in the log, and not again and again
    assert "Traceback" not in node.log()


def test_a_camera_that_leaves_is_told_from_one_that_sends_nothing(start, client, make_bundle, states):
    start(NODE, model=make_bundle().path).wait_ready()
    client.listen(DEPTH)
    answer_is(client, 5.0, wall(), info_message())
    for publisher in (client.images, client.infos):
        client.node.destroy_publisher(publisher)
    states.wait("mono_depth: frames", STALE, "nobody publishes there: is the camera running")
    client.images = client.node.create_publisher(Image, "image", 5)
    client.infos = client.node.create_publisher(CameraInfo, "camera_info", 5)
    answer_is(client, 7.0, wall(metres=7.0), info_message())


# ---- streams that change


def test_size_and_encoding_change_while_images_come(start, client, make_bundle):
    node = start(NODE, model=make_bundle().path, temporal_filter=True).wait_ready()
    client.listen(DEPTH, "points")
    grey = np.full((64, 128), 50, np.uint8)
    for image, info in (
        (wall(), info_message()),
        (wall(256, 128), info_message(256, 128, 200.0)),
        (image_message(grey, "mono8"), info_message()),
        (wall(64, 32), info_message(64, 32, 50.0)),
        (image_message(np.full((64, 128, 4), (200, 20, 50, 9), np.uint8), "bgra8", padding=7), info_message()),
        (image_message((grey * np.uint16(256)).astype(">u2"), "mono16", is_bigendian=True), info_message()),
    ):
        if len(client.sent):  # the new image before the new camera_info, as a camera that restarts may send it
            client.send(image, None)
        answer_is(client, 5.0, image, info)
    assert all("its camera_info says" in line for line in node.lines("ERROR"))


def test_the_newest_camera_info_counts(start, client, make_bundle):
    """Its focal length scales depth; a distortion appears (and the image is rectified) and goes again."""
    node = start(NODE, model=make_bundle().path).wait_ready()
    client.listen(DEPTH, "depth/camera_info")
    answer_is(client, 5.0, wall(), info_message())
    answer_is(client, 10.0, wall(), info_message(f=200.0))
    bent = info_message()
    bent.d = [-0.6, 0.0, 0.0, 0.0, 0.0]
    bent.p = [100.0, 0.0, 60.0, 0.0, 0.0, 100.0, 30.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    pixels = np.full((64, 128, 3), (50, 20, 200), np.uint8)
    pixels[:, 29:32] = (90, 20, 200)  # a pole, straight in the raw image, 0.3 left of the axis at a distance of 1
    image = image_message(pixels, "rgb8")

    def pole(camera_info: CameraInfo) -> np.ndarray:
        """Column of the pole in each row."""
        return np.argmax(depth_array(client.ask(image, camera_info, DEPTH)[0]), axis=1)

    # Radial distortion: raw = rectified (1 + k1 r^2), and r^2 of the rectified point; solved by iteration.
    y_raw = (np.arange(64) - 30) / 100
    x, y = np.full(64, -0.3), y_raw
    for _ in range(50):
        x, y = -0.3 / (1 - 0.6 * (x**2 + y**2)), y_raw / (1 - 0.6 * (x**2 + y**2))
    expected = np.interp(y_raw, y, 60 + 100 * x)  # at the rectified image's rows
    assert np.ptp(expected) > 2
    np.testing.assert_allclose(pole(bent), expected, atol=2.5)  # of pixels of the network, 2 px large
    (info,) = client.ask(image, bent, "depth/camera_info")
    assert not np.any(info.d)
    np.testing.assert_allclose(pole(info_message()), 30, atol=2)
    assert "Traceback" not in node.log()


# ---- publishers that do not fit, and garbage


def test_a_publisher_whose_qos_does_not_fit_is_named_and_another_one_serves(start, client, make_bundle, states):
    reliable = {f"qos_overrides./{topic}.subscription.reliability": "reliable" for topic in ("image", "camera_info")}
    node = start(NODE, model=make_bundle().path, **reliable).wait_ready()
    lossy = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
    misfits = [client.node.create_publisher(*topic, lossy) for topic in ((Image, "image"), (CameraInfo, "camera_info"))]
    client.listen(DEPTH)
    text = "a publisher has incompatible QoS (reliability)"
    states.wait("mono_depth: frames", WARN, f"no camera_info on /camera_info yet, so no depth: {text}")
    states.wait("mono_depth: frames", WARN, f"no image on /image yet: {text}")
    for topic in ("camera_info", "image"):
        assert any(f"'/{topic}': {text}" in line for line in node.lines("WARN"))
    answer_is(client, 5.0, wall(), info_message())

    def find(level: bytes, text: str, since: int = len(states.seen)) -> list[DiagnosticStatus]:
        return states.find("mono_depth: frames", level, text, since)

    client.send_until(lambda: find(WARN, text), wall(), info_message(), "a warning while the misfits are there")
    for misfit in misfits:
        client.node.destroy_publisher(misfit)
    client.send_until(lambda: find(OK, "answered/s"), wall(), info_message(), "no warning any more")


def garbage() -> dict[str, tuple[bytes, bytes]]:
    """Bytes that are no message, for image and camera_info."""
    image, info = serialize_message(wall()), serialize_message(info_message())
    lying = bytearray(image)
    at = image.index(b"rgb8") + 5
    while lying[at : at + 4] != (64 * 128 * 3).to_bytes(4, "little"):  # the length of the pixels
        at += 1
    lying[at : at + 4] = b"\xff\xff\xff\x7f"
    return {
        "nothing": (image[:4], info[:4]),
        "cut off": (image[:60], info[:60]),
        "2 GB of pixels that are not there": (bytes(lying), info),
        "random bytes": (b"\x00\x01\x00\x00" + Random(1).randbytes(3000), b"\x00\x01\x00\x00" + Random(2).randbytes(300)),
        "another encapsulation": (b"\xff\xff\xff\xff" + image[4:], b"\xff\xff\xff\xff" + info[4:]),
    }


def test_bytes_that_are_no_message_do_not_end_the_node(start, client, make_bundle):
    node = start(NODE, model=make_bundle().path).wait_ready()
    client.listen(DEPTH)
    answer_is(client, 5.0, wall(), info_message())
    for number, (image, info) in enumerate(garbage().values()):
        for _ in range(3):
            client.infos.publish(info)
            client.images.publish(image)
        answer_is(client, 6.0 + number, wall(metres=6.0 + number), info_message())
    assert node.running()
    assert "Traceback" not in node.log()


# ---- signals


def signal_each(nodes: list[RosProcess], random: Random) -> set[str]:
    """Send each node SIGINT or SIGTERM at a moment of its own; return the shared memory that they had.

    Every other one while it starts, from the moment that it handles signals (before that Python ends the process, with nothing
    there to give back); the others while they are discovered and answer.
    """
    answers = set(nodes[::2])
    due_s: dict[RosProcess, float] = {}
    waiting, mapped = list(nodes), set()

    def all_sent() -> bool:
        for node in list(waiting):
            begun = "waiting for images" in node.log() if node in answers else handles_signals(node.pid)
            if begun and node not in due_s:
                due_s[node] = time.monotonic() + random.uniform(0, LATEST_S)
            if time.monotonic() >= due_s.get(node, math.inf):
                mapped.update(str(file) for file in shared_memory_of(node.pid))
                os.kill(node.pid, random.choice((signal.SIGINT, signal.SIGTERM)))
                waiting.remove(node)
        return not waiting

    wait_until(all_sent, lambda: waiting[0].log(), 60)
    return mapped


@pytest.mark.timeout(240)
def test_signals_at_50_random_moments_end_it_cleanly(start, client, make_bundle, tmp_path):
    random, model = Random(7), make_bundle().path
    client.listen(*OUTPUTS)
    play(start, tmp_path / "images")
    client.spin_until(lambda: client.node.count_publishers("image") == 2, "a camera")
    before, mapped, answering = shared_memory_files(), set(), 0
    for first in range(0, SIGNALS, AT_ONCE):
        names = [f"depth_{first + number}" for number in range(AT_ONCE)]
        nodes = [start(NODE, "-r", f"__node:={name}", model=model, engine="onnxruntime") for name in names]
        mapped |= signal_each(nodes, random)
        for name, node in zip(names, nodes, strict=True):
            assert node.wait() == 0, f"{name}: {node.log()}"
            assert "Traceback" not in node.log()
            assert not node.lines("ERROR")
            answering += "waiting for images" in node.log()
    assert SIGNALS / 2 <= answering < SIGNALS  # the others were still loading
    client.spin_until(lambda: client.received[DEPTH], "answers of some of them")
    assert mapped
    # Whoever still sends to a port of the node makes its mutex anew: 32 bytes, and the port's next owner takes it over.
    assert not {file for file in unused(mapped - before) if not file.startswith("/dev/shm/sem.")}


# ---- the same name twice


def test_a_second_node_of_the_same_name_is_warned_of(start, client, make_bundle, states):
    """In a namespace of their own, since the graph tells of a killed node of another test for as long as its lease lasts."""
    model, twin = make_bundle().path, "twins/mono_depth: node"
    first = start(NODE, "-r", "__ns:=/twins", model=model).wait_ready()
    states.wait(twin, OK, "the only one of its name")
    second = start(NODE, "-r", "__ns:=/twins", model=model).wait_ready()
    text = "another node is named /twins/mono_depth"
    for node in (first, second):
        wait_until(lambda node=node: [line for line in node.lines("WARN") if text in line], lambda node=node: node.log())
    assert "-r __node:=" in states.wait(twin, WARN, text).message
    assert second.stop() == 0
    mark = len(states.seen)
    states.wait(twin, OK, "the only one", mark)
    assert len([line for line in first.lines("WARN") if text in line]) == 1

"""What goes wrong around a running node: it goes on, says what it sees, and gives everything back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from harness import (
    NODE,
    OUTPUTS,
    PLAYER,
    ROOT,
    Client,
    RosProcess,
    cloud_array,
    depth_array,
    handles_signals,
    image_message,
    info_message,
    shared_memory_files,
    stamp,
    unused,
    wait_until,
    wall,
)  # fmt: skip
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import serialize_message
from rosbags.rosbag2 import Reader
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from depth_ros.calibration import save_calibration
from depth_ros.tools.processes import shared_memory_of
from depth_ros.types import CameraModel

OK, WARN, STALE = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.STALE
DEPTH = "depth/image_rect"
SIGNALS = int(os.environ.get("DEPTH_ROS_SIGNALS", "8"))  # starts that are interrupted; 50 in the release checks
CYCLES = 200


@pytest.fixture
def states(client):
    """Statuses published so far whose message has a text, newest last."""
    seen: list[DiagnosticStatus] = []
    client.node.create_subscription(DiagnosticArray, "/diagnostics", lambda message: seen.extend(message.status), 10)

    def find(part: str, level: bytes, text: str, since: int = 0) -> list[DiagnosticStatus]:
        return [s for s in seen[since:] if s.name == f"mono_depth: {part}" and s.level == level and text in s.message]

    find.seen = seen
    return find


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


def test_a_camera_that_is_killed_and_started_again(start, client, make_bundle, tmp_path, states):
    node = start(NODE, model=make_bundle().path).wait_ready()
    client.listen(DEPTH)
    camera = play(start, tmp_path / "images")
    client.spin_until(lambda: client.received[DEPTH], "answers to the first")
    os.kill(camera.pid, signal.SIGKILL)
    camera.wait()
    client.spin_until(lambda: states("frames", STALE, "no image on /image for"), "a stale camera on /diagnostics")
    client.received.clear()
    mark = len(states.seen)
    play(start, tmp_path / "images")
    client.spin_until(lambda: client.received[DEPTH] and states("frames", OK, "answered/s", mark), "answers to the second")
    assert node.running()
    assert "Traceback" not in node.log()


def test_a_camera_that_leaves_is_told_from_one_that_sends_nothing(start, client, make_bundle, states):
    start(NODE, model=make_bundle().path).wait_ready()
    client.listen(DEPTH)
    answer_is(client, 5.0, wall(), info_message())
    for publisher in (client.images, client.infos):
        client.node.destroy_publisher(publisher)
    client.spin_until(lambda: states("frames", STALE, "nobody publishes there: is the camera running"), "nobody publishes")
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
    for kind, topic in ((Image, "image"), (CameraInfo, "camera_info")):
        client.node.create_publisher(kind, topic, lossy)
    client.listen(DEPTH)
    text = "a publisher has incompatible QoS (reliability)"
    for topic in ("camera_info", "image"):
        said = f"no {topic} on /{topic} yet"
        client.spin_until(
            lambda said=said: [s for s in states("frames", WARN, text) if said in s.message],
            lambda said=said: f"{said}: {text}; got {states.seen[-1:]}",
        )
        assert any(f"'/{topic}': {text}" in line for line in node.lines("WARN"))
    answer_is(client, 5.0, wall(), info_message())


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


def compressed(kind: str, metres: float = 5.0) -> CompressedImage:
    pixels = np.full((64, 128, 3), (200, 20, round(metres * 10)), np.uint8)  # BGR
    message = CompressedImage(format=f"rgb8; {kind[1:]} compressed bgr8")
    message.header.frame_id = "test_optical_frame"
    message.data.frombytes(cv2.imencode(kind, pixels, [cv2.IMWRITE_JPEG_QUALITY, 100] if kind == ".jpg" else [])[1])
    return message


def test_compressed_images_are_answered_and_corrupt_ones_counted(start, client, make_bundle, states):
    node = start(NODE, model=make_bundle().path, image_transport="compressed").wait_ready()
    client.images = client.node.create_publisher(CompressedImage, "image/compressed", 5)
    client.listen(DEPTH)
    for kind, tolerance in ((".png", 1e-6), (".jpg", 0.05)):
        (depth,) = client.ask(compressed(kind), info_message(), DEPTH)
        np.testing.assert_allclose(depth_array(depth), 5.0, rtol=tolerance)
        corrupt = compressed(kind)
        corrupt.data = corrupt.data[: len(corrupt.data) // 2]
        mark = len(states.seen)
        client.send_until(
            lambda m=mark: states("frames", DiagnosticStatus.ERROR, "is cut off", m), corrupt, info_message(), "refusals"
        )
        (depth,) = client.ask(compressed(kind, 8.0), info_message(), DEPTH)
        np.testing.assert_allclose(depth_array(depth), 8.0, rtol=tolerance)
    assert "Traceback" not in node.log()


def test_depth_in_millimetres_and_compressed(start, client, make_bundle):
    """What compressed_depth_image_transport decodes: 12 bytes of header, and a PNG of millimetres."""
    start(NODE, model=make_bundle().path, depth_encoding="16UC1").wait_ready()
    topics = {DEPTH: Image, "depth/uncertainty": Image, f"{DEPTH}/compressedDepth": CompressedImage}
    client.listen(*topics, types=topics)
    depth, sigma, packed = client.ask(wall(metres=5.0, sigma=0.2), info_message(), *topics)
    for message, expected in ((depth, 5000), (sigma, 200)):
        assert (message.encoding, message.step) == ("16UC1", 256)
        assert (np.frombuffer(message.data, "<u2") == expected).all()
    assert packed.format == "16UC1; compressedDepth png"
    pixels = cv2.imdecode(np.frombuffer(packed.data, np.uint8)[12:], cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(pixels, np.full((64, 128), 5000, np.uint16))
    assert stamp(packed) == stamp(depth)


def test_a_cloud_of_voxels_has_one_point_per_cube(start, client, make_bundle):
    """A wall at 5 m, 6.4 m x 3.2 m large (128 x 64 pixels at f = 100), in cubes of 1.6 m aligned to the camera."""
    start(NODE, model=make_bundle().path, cloud_voxel_size=1.6).wait_ready()
    client.listen("points")
    (message,) = client.ask(wall(), info_message(cx=63.5, cy=31.5), "points")
    points = cloud_array(message)[0]
    assert (message.height, message.is_dense, message.width) == (1, True, 8)
    np.testing.assert_allclose(sorted({round(float(x), 3) for x in points["x"]}), [-2.4, -0.8, 0.8, 2.4], atol=1e-3)
    np.testing.assert_allclose(points["z"], 5.0, rtol=1e-6)
    np.testing.assert_allclose(points["sigma"], 0.2, rtol=1e-5)


# ---- resources


RECONFIGURE = """
import json, os, re, sys, threading
import rclpy
from depth_ros.memory import keep_freed_memory
from depth_ros.ros.diagnostics import memory_mb
from depth_ros.ros.node import SUCCESS, MonoDepthNode
from rclpy.executors import SingleThreadedExecutor

keep_freed_memory()
rclpy.init(args=sys.argv)
node = MonoDepthNode(threading.Event())
executor = SingleThreadedExecutor()
executor.add_node(node)
for cycle in range(int(sys.argv[1])):
    for change in (node.trigger_configure, node.trigger_activate, node.trigger_deactivate, node.trigger_cleanup):
        assert change() == SUCCESS
        executor.spin_once(timeout_sec=0)
    if cycle % 20 == 19:
        threads, files = (len(os.listdir(f"/proc/self/{kind}")) for kind in ("task", "fd"))
        mapped = len(set(re.findall(r"/dev/shm/\\\\S+", open("/proc/self/maps").read())))
        print(json.dumps([threads, files, mapped, memory_mb()]), flush=True)
executor.shutdown()
node.destroy_node()
rclpy.shutdown()
"""


def test_reconfigured_200_times_nothing_grows(make_bundle):
    arguments = [sys.executable, "-c", RECONFIGURE, str(CYCLES), "--ros-args", "-p", f"model:={make_bundle().path}"]
    done = subprocess.run(
        [*arguments, "-p", "engine:=onnxruntime", "-p", "autostart:=false", "--log-level", "error"],
        cwd=ROOT, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = np.array([json.loads(line) for line in done.stdout.splitlines()])
    assert len(rows) == CYCLES // 20
    settled = rows[1]  # of 40 cycles: lazily loaded libraries and pools are there
    growth = rows[-1] - settled
    assert (growth[:3] <= 0).all(), rows
    assert growth[3] < 0.05 * settled[3], rows


@pytest.mark.timeout(60 + 15 * SIGNALS)
def test_signals_at_random_moments_end_it_cleanly(start, client, make_bundle, tmp_path):
    """From the moment that it handles signals; before that Python ends the process, with nothing there to give back."""
    random, model = Random(7), make_bundle().path
    client.listen(*OUTPUTS)
    play(start, tmp_path / "images")
    client.spin_until(lambda: client.node.count_publishers("image") == 2, "a camera")
    before, mapped = shared_memory_files(), set()
    for number in range(SIGNALS):
        node = start(NODE, model=model, engine="onnxruntime")
        wait_until(lambda pid=node.pid: handles_signals(pid), "signal handlers")
        time.sleep(random.uniform(0, 3.0))  # it loads, is discovered, answers
        mapped |= {str(file) for file in shared_memory_of(node.pid)}
        os.kill(node.pid, random.choice((signal.SIGINT, signal.SIGTERM)))
        assert node.wait() == 0, f"start {number}: {node.log()}"
        assert "Traceback" not in node.log()
        assert not node.lines("ERROR")
    assert mapped
    # Whoever still sends to a port of the node makes its mutex anew: 32 bytes, and the port's next owner takes it over.
    assert not {file for file in unused(mapped - before) if not file.startswith("/dev/shm/sem.")}


# ---- the same name twice


def test_a_second_node_of_the_same_name_is_warned_of(start, client, make_bundle, states):
    model = make_bundle().path
    first = start(NODE, model=model).wait_ready()
    client.spin_until(lambda: states("node", OK, "the only one of its name"), "the only one")
    second = start(NODE, model=model).wait_ready()
    text = "another node is named /mono_depth"
    for node in (first, second):
        wait_until(lambda node=node: [line for line in node.lines("WARN") if text in line], lambda node=node: node.log())
    warned = client.spin_until(lambda: states("node", WARN, text), "a warning on /diagnostics")
    assert "-r __node:=" in warned[-1].message
    assert second.stop() == 0
    mark = len(states.seen)
    client.spin_until(lambda: states("node", OK, "the only one", mark), "alone again")
    assert len([line for line in first.lines("WARN") if text in line]) == 1


# ---- a full disk


FULL_DISK = """
import resource, sys
from depth_ros.tools import record

class Recorder(record.Recorder):
    def __init__(self, bag):
        super().__init__(bag)  # with its shared memory, which would meet the limit, too
        resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, 4 << 20))  # as on a full disk, writes fail with an OSError

record.Recorder = Recorder
sys.exit(record.main())
"""


def test_a_disk_that_gets_full_ends_the_recording_in_one_line_and_keeps_it(client, tmp_path):
    file = tmp_path / "depth.mcap"
    recorder = RosProcess([sys.executable, "-c", FULL_DISK, str(file)], tmp_path / "recorder.log")
    client.spin_until(client.images.get_subscription_count, "recorder subscribed")
    image = wall(640, 480)
    while recorder.running():
        client.send(image, info_message(640, 480))
        client._executor.spin_once(timeout_sec=0.02)
    assert recorder.wait() == 1
    (line,) = [line for line in recorder.log().splitlines() if not line.startswith("{")]
    assert line.startswith("recorder: ")
    assert "depth.mcap cannot be written: [Errno 27] File too large" in line
    with Reader(file) as reader:
        stamps = [receipt for connection, receipt, _ in reader.messages() if connection.topic == "/image"]
    assert len(stamps) >= 2
    assert stamps == sorted(stamps)
    assert [path.name for path in tmp_path.iterdir() if "depth" in path.name] == ["depth.mcap"]

"""What a node and a recorder keep hold of, and what they do when there is no more room."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from harness import RosProcess, info_message, wall
from rosbags.rosbag2 import Reader

CYCLES = 200

RECONFIGURE = """
import json, os, sys, threading, time
import rclpy
from depth_ros.memory import keep_freed_memory
from depth_ros.ros.diagnostics import memory_mb
from depth_ros.ros.node import SUCCESS, MonoDepthNode
from depth_ros.tools.processes import shared_memory_of
from rclpy.executors import SingleThreadedExecutor

keep_freed_memory()
rclpy.init(args=sys.argv)
node = MonoDepthNode(threading.Event())
executor = SingleThreadedExecutor()
executor.add_node(node)
for cycle in range(int(sys.argv[1])):
    assert node.trigger_configure() == node.trigger_activate() == SUCCESS
    end = time.monotonic() + 15
    while not node._cameras[0].health.answered:
        assert time.monotonic() < end, node._cameras[0].missing()
        executor.spin_once(timeout_sec=0.02)
    assert node.trigger_deactivate() == node.trigger_cleanup() == SUCCESS
    if cycle % 20 == 19:
        threads, files = (len(os.listdir(f"/proc/self/{kind}")) for kind in ("task", "fd"))
        print(json.dumps([threads, files, len(shared_memory_of(os.getpid())), memory_mb()]), flush=True)
executor.shutdown()
node.destroy_node()
rclpy.shutdown()
"""


@pytest.mark.timeout(200)
def test_reconfigured_200_times_nothing_grows(client, make_bundle, tmp_path):
    """An image is answered each time, so that what one camera takes would show."""
    client.listen("depth/image_rect")
    settings = {"model": make_bundle().path, "engine": "onnxruntime", "autostart": False}
    command = [sys.executable, "-c", RECONFIGURE, str(CYCLES)]
    node = RosProcess(command, tmp_path / "node.log", ("--log-level", "error"), settings)
    image, info = wall(), info_message()
    while node.running():
        client.send(image, info)
        client._executor.spin_once(timeout_sec=0.02)
    assert node.wait() == 0, node.log()
    assert len(client.received["depth/image_rect"]) >= CYCLES / 2  # the last of an activation may go with its publisher
    rows = np.array([json.loads(line) for line in node.log().splitlines()])
    assert len(rows) == CYCLES // 20
    assert (rows[:, :3] > 0).all(), rows
    settled = rows[1]  # of 40 cycles: lazily loaded libraries and pools are there
    counts = rows[-3:, :3].min(axis=0)  # what leaks stays; a thread of DDS may be there for a moment
    assert (counts <= settled[:3]).all(), rows
    assert rows[-1, 3] < 1.05 * settled[3], rows


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

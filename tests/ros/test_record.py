"""The recorder's file when writing fails: the reason is told, and what could be written can be read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from rosbags.rosbag2 import Reader
from sensor_msgs.msg import Image

from depth_ros.tools.record import BagFile, RecordingError

ROOT = Path(__file__).resolve().parents[2]
FULL_DISK = """
import resource, sys
from pathlib import Path
from sensor_msgs.msg import Image
from depth_ros.tools.record import BagFile, RecordingError
bag = BagFile(Path(sys.argv[1]))
handle = bag.add_topic("image", Image)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))  # as a full disk does, writes fail with an OSError
for number in range(64):
    bag.put(handle, number, bytes(1 << 16))
try:
    bag.close()
except RecordingError as error:
    sys.exit(str(error))
"""


def test_error_of_the_writer_is_raised_and_what_came_before_is_kept(tmp_path):
    bag = BagFile(tmp_path / "depth.mcap")
    handle = bag.add_topic("image", Image)
    bag.put(handle, 1, b"first")
    bag.put("no handle", 2, b"second")
    bag.put(handle, 3, b"third")
    with pytest.raises(RecordingError, match=r"depth\.mcap cannot be written: "):
        bag.close()
    assert bag.error is not None
    with Reader(tmp_path / "depth.mcap") as reader:
        assert [bytes(data) for _, _, data in reader.messages()] == [b"first"]
    assert [file.name for file in tmp_path.iterdir()] == ["depth.mcap"]


def test_full_disk_is_told(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "depth.mcap")],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "depth.mcap cannot be written: [Errno 27] File too large" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not [file.name for file in tmp_path.iterdir() if file.name.startswith(".")]

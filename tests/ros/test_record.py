"""The recorder's file when writing fails: the reason is told, and what could be written can be read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from rosbags.rosbag2 import Reader, ReaderError
from sensor_msgs.msg import Image

from depth_ros.tools.record import BagFile, RecordingError, end_after_last_whole_record

ROOT = Path(__file__).resolve().parents[2]
FULL_DISK = """
import resource, sys
from pathlib import Path
from sensor_msgs.msg import Image
from depth_ros.tools.record import BagFile, RecordingError
bag = BagFile(Path(sys.argv[1]))
handle = bag.add_topic("image", Image)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 21, 1 << 21))  # as a full disk does, writes fail with an OSError
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


def test_full_disk_is_told_and_what_fitted_can_be_read(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "depth.mcap")],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "depth.mcap cannot be written: [Errno 27] File too large" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["depth.mcap"]
    with Reader(tmp_path / "depth.mcap") as reader:
        messages = list(reader.messages())
    # rosbags writes a chunk once it holds more than 1 MiB, with its 16th message of 64 KiB: the second does not fit.
    assert [(time_ns, bytes(data)) for _, time_ns, data in messages] == [(number, bytes(1 << 16)) for number in range(16)]


@pytest.mark.parametrize("share", [0.999, 0.99, 0.7, 0.4, 0.1])
def test_a_file_that_breaks_off_anywhere_is_readable_up_to_there(tmp_path, share):
    file = tmp_path / "depth.mcap"
    bag = BagFile(file)
    handle = bag.add_topic("image", Image)
    for number in range(50):
        bag.put(handle, number, bytes([number]) * (1 << 17))
    bag.close()
    with file.open("r+b") as stream:
        stream.truncate(int(file.stat().st_size * share))
    with pytest.raises(ReaderError):
        Reader(file).open()
    before = file.stat().st_size
    end_after_last_whole_record(file)
    assert file.stat().st_size <= before
    with Reader(file) as reader:
        found = [(time_ns, data[0]) for _, time_ns, data in reader.messages()]
    assert found == [(number, number) for number in range(len(found))]
    assert len(found) * (1 << 17) > before - (1 << 21)  # all but the chunk in which it broke off

"""The demo as a user starts it: three processes over DDS, real files in and out."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_typestore

from depth_ros import bundle
from depth_ros.bundle import ModelBundle
from depth_ros.calibration import save_calibration
from depth_ros.types import CameraModel

ROOT = Path(__file__).resolve().parents[2]
CAMERA = CameraModel(128, 64, 100.0, 100.0, 63.5, 31.5)  # the probe's 64x32 at its training focal length, 50
OUTPUTS = {"/depth/image_rect", "/depth/uncertainty", "/depth/camera_info", "/points"}
TIMEOUT_S = 60.0


@dataclass
class Inputs:
    """Arguments of a run that works; tests break one of them."""

    images: Path
    camera: Path
    truth: Path
    model: Path
    out: Path

    def command(self) -> list[str]:
        given = {"input": self.images, "camera-info": self.camera, "truth": self.truth, "model": self.model, "out": self.out}
        return [sys.executable, "-m", "depth_ros.tools.demo", *(f"--{name}={path}" for name, path in given.items())]


def write_walls(folder: Path, count: int, metres: float = 5.0) -> Path:
    """Images of which the probe bundle (depth = red / 10, sigma = green / 100) makes a wall."""
    folder.mkdir()
    for number in range(count):
        cv2.imwrite(str(folder / f"{number:04d}.png"), np.full((64, 128, 3), (200, 20, round(10 * metres)), np.uint8))
    return folder


@pytest.fixture
def inputs(tmp_path: Path, make_bundle: Callable[..., ModelBundle]) -> Inputs:
    """Twelve images of a wall at 5 m, with that as the truth for every other one."""
    truth = tmp_path / "truth"
    truth.mkdir()
    for number in range(0, 12, 2):
        cv2.imwrite(str(truth / f"{number:04d}.png"), np.full((64, 128), 5 * 256, np.uint16))
    save_calibration(CAMERA, tmp_path / "camera.yaml")
    images = write_walls(tmp_path / "images", 12)
    return Inputs(images, tmp_path / "camera.yaml", truth, make_bundle().path, tmp_path / "out")


def run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)


def fails(command: Sequence[str], pattern: str) -> None:
    """The run exits with 1, and its last line, the only one of its kind, says why."""
    done = run(command)
    assert done.returncode == 1, done.stderr
    complaints = [line for line in done.stderr.splitlines() if line.startswith("demo: ")]
    assert len(complaints) == 1, done.stderr
    assert re.search(pattern, complaints[0]), complaints[0]
    assert "Traceback" not in done.stderr


def stamps_by_topic(bag: Path) -> dict[str, list[int]]:
    store = get_typestore(Stores.ROS2_JAZZY)
    found: dict[str, list[int]] = {}
    with Reader(bag) as reader:
        for connection, _, data in reader.messages():
            stamp = store.deserialize_cdr(data, connection.msgtype).header.stamp
            found.setdefault(connection.topic, []).append(stamp.sec * 10**9 + stamp.nanosec)
    return found


def processes_about(path: Path) -> list[str]:
    """Command lines of running processes that name `path`."""
    lines = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(path) in line and process.name != str(os.getpid()):
            lines.append(line)
    return lines


def orphaned_memory() -> set[str]:
    """Fast DDS files in shared memory that no process has mapped."""
    files = {file.name for file in Path("/dev/shm").glob("fastrtps_*") if not file.name.endswith("_el")}
    for maps in Path("/proc").glob("[0-9]*/maps"):
        try:
            files -= set(re.findall(r"/dev/shm/(fastrtps_\S+)", maps.read_text(errors="replace")))
        except OSError:
            continue
    return files


def test_wall_at_5_m_end_to_end(inputs: Inputs):
    done = run(inputs.command())
    assert done.returncode == 0, done.stderr

    summary = json.loads((inputs.out / "summary.json").read_text())
    assert summary["frames_in"] == 12
    assert summary["frames_out"] + summary["frames_dropped"] == 12
    assert summary["frames_out"] >= 6  # of 10 Hz, even on a busy machine
    assert summary["model"] == "probe"
    assert 0 < summary["latency_ms"]["p50"] <= summary["latency_ms"]["p95"] <= summary["latency_ms"]["max"]
    assert summary["valid_fraction"] == 1.0
    assert 1 <= summary["frames_with_truth"] <= 6
    assert summary["abs_rel"] == pytest.approx(0.0, abs=1e-6)
    assert summary["delta1"] == summary["coverage_1sigma"] == 1.0

    with (inputs.out / "frames.csv").open() as file:
        played = {int(stamp): name for stamp, name in csv.reader(file)}
    assert list(played.values()) == [f"{number:04d}.png" for number in range(12)]
    stamps = stamps_by_topic(inputs.out / "depth.mcap")
    assert stamps["/image"] == stamps["/camera_info"] == list(played)
    for topic in OUTPUTS:
        assert len(stamps[topic]) == summary["frames_out"]
        assert set(stamps[topic]) <= set(played)
        assert stamps[topic][-1] == stamps["/image"][-1]  # the newest image is always answered

    assert cv2.imread(str(inputs.out / "preview.png")).shape == (1080, 1920, 3)
    assert cv2.VideoCapture(str(inputs.out / "preview.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == summary["frames_out"]
    assert processes_about(inputs.out) == []


def test_recorded_depth_and_cloud_are_the_wall(inputs: Inputs):
    assert run(inputs.command()).returncode == 0
    store = get_typestore(Stores.ROS2_JAZZY)
    with Reader(inputs.out / "depth.mcap") as reader:
        messages = {c.topic: store.deserialize_cdr(data, c.msgtype) for c, _, data in reader.messages()}
    depth = messages["/depth/image_rect"]
    assert (depth.encoding, depth.width, depth.height) == ("32FC1", 128, 64)
    np.testing.assert_allclose(depth.data.view(np.float32), 5.0, rtol=1e-6)
    np.testing.assert_allclose(messages["/depth/uncertainty"].data.view(np.float32), 0.2, rtol=1e-6)
    cloud = messages["/points"]
    assert [field.name for field in cloud.fields] == ["x", "y", "z", "rgb", "sigma"]
    points = cloud.data.view(np.float32).reshape(cloud.height, cloud.width, 5)
    u = np.arange(cloud.width)
    np.testing.assert_allclose(points[..., 2], 5.0, rtol=1e-6)
    np.testing.assert_allclose(points[0, :, 0], (u - (cloud.width - 1) / 2) / 50.0 * 5.0, rtol=1e-5)


@contextmanager
def playing(inputs: Inputs, tmp_path: Path, images: int) -> Iterator[subprocess.Popen[str]]:
    """A demo of half a minute that has played this many images."""
    inputs.images = write_walls(tmp_path / "many", 300)
    index = inputs.out / "frames.csv"
    demo = subprocess.Popen(inputs.command(), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        end = time.monotonic() + 30
        while not index.is_file() or index.read_text().count("\n") < images:
            assert demo.poll() is None, demo.communicate()
            assert time.monotonic() < end, "no image was played"
            time.sleep(0.05)
        yield demo
    finally:
        demo.kill()


@pytest.fixture
def terminal():
    """Tests may run under nohup, whose ignored SIGHUP the demo would inherit, and respect."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_interrupted_in_the_middle_everything_is_closed_and_written(inputs: Inputs, tmp_path: Path, number):
    with playing(inputs, tmp_path, 8) as demo:
        demo.send_signal(number)
        _, complaint = demo.communicate(timeout=TIMEOUT_S)
    assert demo.returncode == 130, complaint + (inputs.out / "log" / "node.txt").read_text()
    assert complaint.splitlines()[-1] == "demo: interrupted"
    assert "Traceback" not in complaint
    summary = json.loads((inputs.out / "summary.json").read_text())
    assert 8 <= summary["frames_in"] < 300
    assert summary["abs_rel"] == pytest.approx(0.0, abs=1e-6)
    stamps = stamps_by_topic(inputs.out / "depth.mcap")
    assert len(stamps["/depth/image_rect"]) >= summary["frames_out"] > 0
    assert (inputs.out / "preview.png").is_file()
    assert processes_about(inputs.out) == []


def test_killed_node_ends_the_run_with_a_reason_and_leaves_nothing(inputs: Inputs, tmp_path: Path):
    before = orphaned_memory()
    with playing(inputs, tmp_path, 5) as demo:
        children = Path(f"/proc/{demo.pid}/task/{demo.pid}/children").read_text().split()
        (node,) = (int(pid) for pid in children if b"depth_ros.ros.node" in Path(f"/proc/{pid}/cmdline").read_bytes())
        os.kill(node, signal.SIGKILL)
        _, complaint = demo.communicate(timeout=TIMEOUT_S)
    assert demo.returncode == 1
    assert complaint.splitlines()[-1] == f"demo: node: ended by SIGKILL; see {inputs.out / 'log' / 'node.txt'}"
    assert json.loads((inputs.out / "summary.json").read_text())["frames_in"] >= 5
    assert processes_about(inputs.out) == []
    left = orphaned_memory() - before
    time.sleep(1.0 if left else 0.0)  # other programs on this machine come and go
    assert orphaned_memory() & left == set()


def test_killed_demo_leaves_no_process(inputs: Inputs, tmp_path: Path):
    before = orphaned_memory()
    with playing(inputs, tmp_path, 1) as demo:
        assert len(processes_about(inputs.out)) >= 3  # recorder, player and the demo itself
        demo.kill()
        demo.communicate(timeout=TIMEOUT_S)
    end = time.monotonic() + 20
    while left := processes_about(tmp_path):
        assert time.monotonic() < end, left
        time.sleep(0.1)
    left_memory = orphaned_memory() - before
    time.sleep(1.0 if left_memory else 0.0)  # other programs on this machine come and go
    assert orphaned_memory() & left_memory == set()


def test_started_and_stopped_again_and_again(inputs: Inputs):
    """SIGTERM 0 to 2 s after the start: whatever the demo was doing, no process is left."""
    for number in range(5):
        demo = subprocess.Popen(inputs.command(), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        time.sleep(number / 2)
        demo.terminate()
        said, _ = demo.communicate(timeout=TIMEOUT_S)
        assert demo.returncode in (130, -signal.SIGTERM), said  # the latter while Python itself still starts
        assert processes_about(inputs.out) == []


def test_only_the_demos_own_files_are_replaced(inputs: Inputs):
    (inputs.out / "log").mkdir(parents=True)
    mine = [inputs.out / "log" / "diary.txt", inputs.out / "depth.png"]
    for file in mine:
        file.write_text("mine")
    (inputs.out / "depth.mcap").write_text("of an earlier run")
    assert run(inputs.command()).returncode == 0
    assert [file.read_text() for file in mine] == ["mine", "mine"]
    assert (inputs.out / "depth.mcap").read_bytes().startswith(b"\x89MCAP")
    assert sorted(file.name for file in (inputs.out / "log").iterdir()) == ["diary.txt", "node.txt", "player.txt", "recorder.txt"]


def test_result_of_an_earlier_run_is_not_overwritten_by_being_played(inputs: Inputs):
    inputs.out.mkdir()
    cv2.imwrite(str(inputs.out / "preview.png"), np.zeros((64, 128, 3), np.uint8))
    fails(replace(inputs, images=inputs.out).command(), r"out: it would be overwritten by this run .*preview\.png.* OUT=")
    video = inputs.out / "preview.mp4"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*"mp4v"), 25, (128, 64))
    writer.write(np.zeros((64, 128, 3), np.uint8))
    writer.release()
    fails(replace(inputs, images=video).command(), r"preview\.mp4: it would be overwritten by this run .* OUT=")
    assert video.is_file()


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        ({"model": "nowhere"}, r"nowhere: no such folder; expected a model bundle"),
        ({"images": "nowhere.mp4"}, r"nowhere\.mp4: no such file"),
        ({"images": "text.mp4"}, r"text\.mp4: not a video that OpenCV can read"),
        ({"camera": "nowhere.yaml"}, r"nowhere\.yaml: cannot be read"),
        ({"truth": "empty"}, r"empty: no PNG files"),
        ({"out": "text.mp4"}, r"text\.mp4: cannot be written"),
        ({"out": "/proc/out"}, r"/proc/out: cannot be written"),
    ],
    ids=lambda value: "-".join(value.values()).replace("/", "") if isinstance(value, dict) else None,
)
def test_bad_argument_is_one_clear_line_before_anything_starts(inputs: Inputs, tmp_path: Path, change, pattern):
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "empty").mkdir()
    fails(replace(inputs, **{name: tmp_path / value for name, value in change.items()}).command(), pattern)


def test_missing_camera_info_is_named(inputs: Inputs):
    command = [word for word in inputs.command() if not word.startswith("--camera-info")]
    fails(command, "a camera calibration is needed with it; give CAMERA_INFO=")


def test_image_of_another_size_is_the_players_complaint(inputs: Inputs):
    for file in inputs.images.iterdir():
        cv2.imwrite(str(file), np.zeros((60, 128, 3), np.uint8))
    fails(inputs.command(), r"player: image '0000\.png' is 128x60, but .*camera\.yaml is for 128x64")


def test_graph_that_cannot_be_loaded_is_the_nodes_complaint(inputs: Inputs):
    good = bundle.load(inputs.model)
    good.graph_path.write_bytes(b"not a graph")
    bundle.save(good, good.path)  # with the right hash, so that only the engine can tell
    fails(inputs.command(), r"node: .*model\.onnx")

"""The main job on real traffic: the shipped model, the camera at 10 Hz, figures from what was published."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from depth_ros.calibration import save_calibration
from depth_ros.tools.recording import DEPTH, TOPICS
from training.data.truth import open_evaluation_set
from training.evaluate import evaluate, open_estimator

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models" / "default"


@pytest.fixture(scope="module")
def traffic(shared_data: Path) -> Path:
    return shared_data / "kitti_raw_0926_traffic"


@pytest.fixture(scope="module")
def out(traffic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of one run of the demo on the traffic clip."""
    folder = tmp_path_factory.mktemp("main_job")
    save_calibration(open_evaluation_set(traffic).camera, folder / "camera.yaml")
    arguments = {
        "input": traffic / "image",
        "camera-info": folder / "camera.yaml",
        "truth": traffic / "depth",
        "model": MODEL,
        "rate": 10,
        "out": folder / "out",
    }
    command = [sys.executable, "-m", "depth_ros.tools.demo", *(f"--{name}={value}" for name, value in arguments.items())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "out"


def test_traffic_is_answered(out: Path):
    summary = json.loads((out / "summary.json").read_text())
    assert summary["frames_in"] == 48
    assert summary["frames_out"] >= 0.95 * 48
    assert summary["frames_out"] + summary["frames_dropped"] == 48


def test_every_output_carries_the_stamp_of_an_image_and_none_is_stale(out: Path):
    from rosbags.rosbag2 import Reader
    from rosbags.typesys import Stores, get_typestore

    typestore = get_typestore(Stores.ROS2_JAZZY)
    with (out / "frames.csv").open(newline="") as stream:
        played = [int(stamp_ns) for stamp_ns, _ in csv.reader(stream)]
    stamps: dict[str, list[int]] = {topic: [] for topic in TOPICS}
    with Reader(out / "depth.mcap") as reader:
        connections = [c for c in reader.connections if c.topic in TOPICS]
        for connection, _, data in reader.messages(connections):
            header = typestore.deserialize_cdr(data, connection.msgtype).header
            stamps[connection.topic].append(header.stamp.sec * 10**9 + header.stamp.nanosec)
    for topic, found in stamps.items():
        assert set(found) <= set(played), topic
        assert found == sorted(set(found)), topic  # in order, once each
    assert stamps[DEPTH] == stamps["/depth/uncertainty"] == stamps["/points"] == stamps["/depth/camera_info"]


def test_what_was_published_is_as_exact_as_evaluation_says(out: Path, traffic: Path):
    summary = json.loads((out / "summary.json").read_text())
    scores = evaluate(open_estimator(MODEL), open_evaluation_set(traffic))
    assert summary["abs_rel"] == pytest.approx(scores["abs_rel"], rel=0.02)
    assert summary["coverage_1sigma"] == pytest.approx(scores["coverage_1sigma"], rel=0.02)

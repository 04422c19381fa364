from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from depth_ros.cloud import POINT_DTYPE
from depth_ros.tools.recording import Answer, answers
from depth_ros.tools.summary import summarise
from depth_ros.truth import TruthFolder
from depth_ros.types import CameraModel, InputError

WIDTH, HEIGHT = 60, 40
CAMERA = CameraModel(WIDTH, HEIGHT, 50.0, 50.0, 29.5, 19.5)
START_NS = 1_700_000_000_123_456_789


def answer(number: int, depth_m: float, sigma_m: float = 1.0, latency_ms: int = 20) -> Answer:
    """Answer to image `number` of a 10 Hz camera: a wall."""
    stamp_ns = START_NS + number * 100_000_000
    return Answer(
        stamp_ns=stamp_ns,
        receipt_ns=stamp_ns + latency_ms * 1_000_000,
        image=np.full((HEIGHT, WIDTH, 3), (10, 20, 30), np.uint8),
        depth=np.full((HEIGHT, WIDTH), depth_m, np.float32),
        sigma=np.full((HEIGHT, WIDTH), sigma_m, np.float32),
        cloud=np.full((2, 3), np.array((1.0, 2.0, depth_m, 0.0, sigma_m), POINT_DTYPE)),
        camera=CAMERA,
    )


def write_index(file: Path, count: int) -> Path:
    file.write_text("".join(f"{START_NS + i * 100_000_000},{i:04d}.jpg\n" for i in range(count)))
    return file


@pytest.fixture
def truth_folder(tmp_path: Path) -> Path:
    """Truth of 10 m everywhere for images 0 and 2."""
    folder = tmp_path / "truth"
    folder.mkdir()
    for number in (0, 2):
        cv2.imwrite(str(folder / f"{number:04d}.png"), np.full((HEIGHT, WIDTH), 2560, np.uint16))
    return folder


def test_recording_is_read_back_as_it_was_published(write_recording):
    written = answer(3, 7.5)
    (read,) = answers(write_recording([written]))
    assert (read.stamp_ns, read.receipt_ns, read.camera) == (written.stamp_ns, written.receipt_ns, CAMERA)
    for name in ("image", "depth", "sigma", "cloud"):
        np.testing.assert_array_equal(getattr(read, name), getattr(written, name))
    assert read.latency_ms == pytest.approx(20.0)


def test_counts_rate_and_latency(write_recording, tmp_path):
    latencies = [10, 20, 30, 90]
    recording = write_recording([answer(i, 5.0, latency_ms=ms) for i, ms in zip((0, 1, 2, 5), latencies, strict=True)])
    summary = summarise(recording, write_index(tmp_path / "frames.csv", 6))
    assert (summary["frames_in"], summary["frames_out"], summary["frames_dropped"]) == (6, 4, 2)
    assert summary["rate_hz"] == pytest.approx(3 / 0.58)  # received at 10, 120, 230 and 590 ms
    assert summary["latency_ms"]["p50"] == pytest.approx(25.0)
    assert summary["latency_ms"]["p95"] == pytest.approx(30 + 0.85 * 60)  # linear between the order statistics
    assert summary["latency_ms"]["max"] == pytest.approx(90.0)
    assert summary["valid_fraction"] == 1.0
    assert "abs_rel" not in summary


def test_accuracy_is_the_mean_over_the_images_with_truth(write_recording, tmp_path, truth_folder):
    recording = write_recording([answer(0, 12.0), answer(1, 99.0), answer(2, 9.0)])  # truth is 10 m
    summary = summarise(recording, write_index(tmp_path / "frames.csv", 3), TruthFolder(truth_folder, 256.0))
    assert summary["frames_with_truth"] == 2
    assert summary["abs_rel"] == pytest.approx((0.2 + 0.1) / 2)
    assert summary["abs_rel_median_scaled"] == pytest.approx(0.0, abs=1e-6)
    assert summary["delta1"] == 1.0
    assert summary["coverage_1sigma"] == pytest.approx(0.5)  # 2 m off and 1 m off, sigma 1 m
    assert summary["coverage_2sigma"] == pytest.approx(1.0)
    # Equal errors, and an order that says nothing: the oracle removes them no better, random neither, and the last
    # trapezoid falls from m to 0 over 2 % for all.
    assert summary["ause_abs_rel"] == pytest.approx(0.0, abs=1e-6)
    assert summary["aurg_abs_rel"] == pytest.approx(0.15 * 0.01, rel=1e-3)


def test_invalid_pixels_count_in_valid_fraction_and_not_in_accuracy(write_recording, tmp_path, truth_folder):
    holed = answer(0, 10.0)
    holed.depth[: HEIGHT // 2] = np.nan
    holed.sigma[: HEIGHT // 2] = np.nan
    summary = summarise(write_recording([holed]), write_index(tmp_path / "f.csv", 1), TruthFolder(truth_folder, 256.0))
    assert summary["valid_fraction"] == 0.5
    assert summary["abs_rel"] == pytest.approx(0.0, abs=1e-6)


def test_answer_to_somebody_elses_image_does_not_count(write_recording, tmp_path, truth_folder):
    recording = write_recording([answer(0, 12.0), answer(7, 99.0)])  # the index ends at 2
    summary = summarise(recording, write_index(tmp_path / "frames.csv", 3), TruthFolder(truth_folder, 256.0))
    assert (summary["frames_in"], summary["frames_out"], summary["frames_dropped"]) == (3, 1, 2)
    assert summary["abs_rel"] == pytest.approx(0.2)


def test_nothing_played_and_nothing_answered(write_recording, tmp_path):
    recording = write_recording([answer(0, 5.0)])
    assert summarise(recording, write_index(tmp_path / "f.csv", 1))["rate_hz"] is None  # one answer has no rate
    assert summarise(recording, tmp_path / "never_written.csv")["frames_in"] == 0


def test_truth_of_another_size_is_refused(write_recording, tmp_path, truth_folder):
    small = replace(
        answer(0, 5.0), depth=np.ones((4, 6), np.float32), sigma=np.ones((4, 6), np.float32), camera=CAMERA.resized(6, 4)
    )
    recording = write_recording([small])
    with pytest.raises(InputError, match=r"60x40.*6x4"):
        summarise(recording, write_index(tmp_path / "f.csv", 1), TruthFolder(truth_folder, 256.0))


def test_recording_without_depth_is_refused(tmp_path):
    with Writer(tmp_path / "other", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        writer.add_connection("/image", "sensor_msgs/msg/Image", typestore=get_typestore(Stores.ROS2_JAZZY))
    with pytest.raises(InputError, match="/depth/image_rect"):
        list(answers(tmp_path / "other" / "other.mcap"))

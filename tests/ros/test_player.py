"""The player: real videos, folders and bags over DDS, paced, stamped and ended properly."""

from __future__ import annotations

import csv
import os
import sqlite3
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from bags import write_bag
from harness import PLAYER, Client, RosProcess, stamp
from rosbags.rosbag2 import StoragePlugin
from sensor_msgs.msg import CameraInfo, Image

from depth_ros.calibration import save_calibration
from depth_ros.ros.sources import is_bag
from depth_ros.types import CameraModel

TYPES = {"image": Image, "camera_info": CameraInfo}
CAMERA = CameraModel(64, 32, 50.0, 51.0, 31.0, 15.0)


@pytest.fixture
def calibration(tmp_path) -> Path:
    save_calibration(CAMERA, tmp_path / "camera.yaml")
    return tmp_path / "camera.yaml"


@pytest.fixture
def folder(tmp_path) -> Path:
    """Images 0.png ... 9.png with their number as grey value."""
    path = tmp_path / "images"
    path.mkdir()
    for number in range(10):
        cv2.imwrite(str(path / f"{number}.png"), np.full((32, 64, 3), 20 * number, np.uint8))
    return path


def test_what_a_bag_is(tmp_path):
    """A killed recorder leaves no metadata; among images a bag is one file more."""
    for name, files, expected in (
        ("whole", ("metadata.yaml", "0.db3"), True),
        ("killed", ("0.mcap",), True),
        ("images", ("1.png", "2.jpg"), False),
        ("both", ("1.png", "drive.mcap"), False),
        ("empty", (), False),
    ):
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).touch()
        assert is_bag(tmp_path / name) is expected, name
    assert is_bag(tmp_path / "killed" / "0.mcap")


def test_home_folder_and_parameter_file_as_of_the_node(start, folder, calibration, tmp_path):
    """No shell expands ~ in a parameter, and a file for another node is said to be."""
    (tmp_path / "params.yaml").write_text("monodepth:\n  ros__parameters:\n    rate: 5.0\n")
    given = {"input": f"~/{folder.name}", "camera_info": f"~/{calibration.name}", "rate": 100, "index": "~/index.csv"}
    process = start(PLAYER, "--params-file", str(tmp_path / "params.yaml"), env={"HOME": str(folder.parent)}, **given)
    assert process.wait() == 0, process.log()
    assert (folder.parent / "index.csv").read_text().count("\n") == len(list(folder.iterdir()))
    assert any("is not for /camera_player but for /monodepth" in line for line in process.lines("WARN"))


def play(start, client: Client, **parameters: object):
    """Run the player to its end; return it with the images and camera_infos received, by stamp."""
    client.listen("image", "camera_info", types=TYPES, qos=100)
    process = start(PLAYER, wait_for_subscribers=1, **parameters)
    client.spin_until(lambda: not process.running(), lambda: process.log(), timeout_s=30)
    return process, client.received["image"], client.received["camera_info"]


def test_folder(start, client, folder, calibration, tmp_path):
    index = tmp_path / "index.csv"
    (folder / "4.png").write_bytes(b"not a png")
    whole = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 255, (32, 64, 3), np.uint8))[1].tobytes()
    (folder / "4.jpg").write_bytes(whole[: len(whole) // 2])  # OpenCV would fill the rest with grey
    process, images, infos = play(start, client, input=folder, camera_info=calibration, rate=20, frame_id="left", index=index)
    assert process.wait() == 0, process.log()
    names = [f"{number}.png" for number in range(10) if number != 4]
    rows = list(csv.reader(index.open()))
    assert [row[1] for row in rows] == names
    assert [int(row[0]) for row in rows] == sorted(images) == sorted(infos)
    assert "2 that could not be read skipped" in process.log()
    for at, name in rows:
        message = images[int(at)]
        assert (message.encoding, message.width, message.height, message.header.frame_id) == ("bgr8", 64, 32, "left")
        assert set(message.data) == {20 * int(name[0])}
        np.testing.assert_allclose(infos[int(at)].k, [50, 0, 31, 0, 51, 15, 0, 0, 1])
        assert infos[int(at)].header.frame_id == "left"
    # Paced by an absolute schedule: no image before its turn, and lateness does not add up.
    seconds = (np.array(sorted(images)) - min(images)) / 1e9
    assert (np.diff(seconds) > 0).all()
    assert seconds[-1] > 8 / 20 - 0.05


def test_loop_until_interrupted(start, client, folder, calibration):
    client.listen("image", types=TYPES, qos=100)
    process = start(PLAYER, input=folder, camera_info=calibration, rate=100, loop=True)
    client.spin_until(lambda: len(client.received["image"]) > 25, "more images than the folder has")
    process.interrupt()
    assert process.wait(5) == 0
    assert "Traceback" not in process.log()


def test_video(start, client, tmp_path, calibration):
    file = tmp_path / "clip.mp4"
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"mp4v"), 25, (64, 32))
    for number in range(12):
        writer.write(np.full((32, 64, 3), 20 * number, np.uint8))
    writer.release()
    process, images, _ = play(start, client, input=file, camera_info=calibration)
    assert process.wait() == 0, process.log()
    greys = [np.mean(images[at].data) for at in sorted(images)]
    np.testing.assert_allclose(greys, 20 * np.arange(12), atol=4)  # a lossy codec
    assert (max(images) - min(images)) / 1e9 > 11 / 25 - 0.05  # its own rate


@pytest.mark.parametrize("storage", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_bag(start, client, tmp_path, storage):
    """Raw and compressed images with the bag's own encoding, frame and camera_info; times as recorded."""
    for compressed in (False, True):
        path = tmp_path / f"bag_{compressed}"
        write_bag(path, storage, compressed)
        client.received.clear()
        process, images, infos = play(start, client, input=path)
        assert process.wait() == 0, process.log()
        assert sorted(images) == sorted(infos)
        assert len(images) == 4
        assert {message.encoding for message in images.values()} == {"bgr8" if compressed else "mono8"}
        assert {message.header.frame_id for message in images.values()} == {"bag_frame"}
        assert [round(np.mean(images[at].data)) for at in sorted(images)] == [0, 40, 80, 120]
        for info in infos.values():
            assert (info.distortion_model, list(info.d)) == ("plumb_bob", [0.1, 0, 0, 0, 0])
            assert info.k[0] == 50


def test_single_mcap_file(start, client, tmp_path):
    write_bag(tmp_path / "bag", StoragePlugin.MCAP, compressed=False)
    (file,) = (tmp_path / "bag").glob("*.mcap")
    alone = file.rename(tmp_path / "alone.mcap")
    process, images, _ = play(start, client, input=alone)
    assert process.wait() == 0, process.log()
    assert len(images) == 4


def test_bags_alone_need_rosbags(tmp_path, folder, calibration):
    """`colcon build` with rosdep brings everything but rosbags."""
    code = "import sys; sys.modules['rosbags'] = None; from depth_ros.ros.player import main; sys.exit(main())"
    write_bag(tmp_path / "bag", StoragePlugin.MCAP, compressed=False)
    logs = {}
    for given in (folder, tmp_path / "bag"):
        process = RosProcess(
            [sys.executable, "-c", code], tmp_path / "log", (), {"input": given, "camera_info": calibration, "rate": 100}
        )
        logs[given] = process.wait(), process.log()
    assert logs[folder][0] == 0, logs
    assert "10 images published" in logs[folder][1]
    code, log = logs[tmp_path / "bag"]
    assert code == 1
    assert len(log.splitlines()) == 1
    assert "bag: a bag is read with rosbags, which is not installed" in log
    assert "pip install rosbags" in log


def no_such_input(tmp_path, calibration):
    return {"input": tmp_path / "nowhere"}, ["nowhere", "no such file"]


def empty_folder(tmp_path, calibration):
    return {"input": tmp_path, "camera_info": calibration}, [str(tmp_path), "no images"]


def unreadable_video(tmp_path, calibration):
    (tmp_path / "clip.mp4").write_bytes(os.urandom(5000))
    return {"input": tmp_path / "clip.mp4", "camera_info": calibration}, ["clip.mp4", "not a video"]


def nothing_readable(tmp_path, calibration):
    (tmp_path / "a.png").write_bytes(b"x")
    return {"input": tmp_path, "camera_info": calibration}, ["no image of the input could be read"]


def other_size(tmp_path, calibration):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((30, 60, 3), np.uint8))
    return {"input": tmp_path, "camera_info": calibration}, ["'a.png' is 60x30", "64x32", str(calibration)]


def missing_calibration(tmp_path, calibration):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((32, 64, 3), np.uint8))
    return {"input": tmp_path, "camera_info": tmp_path / "none.yaml"}, ["none.yaml", "cannot be read"]


def no_camera_info(tmp_path, calibration):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((32, 64, 3), np.uint8))
    return {"input": tmp_path}, ["no camera_info"]


def incomplete_calibration(tmp_path, calibration):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((32, 64, 3), np.uint8))
    calibration.write_text(calibration.read_text().replace("camera_matrix", "matrix"))
    return {"input": tmp_path, "camera_info": calibration}, ["camera.yaml", "'camera_matrix' is missing"]


def broken_bag(tmp_path, calibration):
    (tmp_path / "bag.mcap").write_bytes(b"\x89MCAP0\r\nnonsense")
    return {"input": tmp_path / "bag.mcap"}, ["bag.mcap", "not a bag"]


def bag_without_metadata(tmp_path, calibration):
    """What a recorder leaves that was killed."""
    write_bag(tmp_path / "bag", StoragePlugin.MCAP, False)
    (tmp_path / "bag" / "metadata.yaml").unlink()
    return {"input": tmp_path / "bag"}, ["bag", "not a bag", "metadata", "ros2 bag reindex"]


def bag_without_images(tmp_path, calibration):
    write_bag(tmp_path / "bag", StoragePlugin.MCAP, False, topics=())
    return {"input": tmp_path / "bag"}, ["no image topic"]


def bag_with_two_cameras(tmp_path, calibration):
    write_bag(tmp_path / "bag", StoragePlugin.MCAP, False, topics=("/cam/image", "/cam/other"))
    return {"input": tmp_path / "bag"}, ["several image topics (/cam/image, /cam/other)", "'topic'"]


def unwritable_index(tmp_path, calibration):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((32, 64, 3), np.uint8))
    return {"input": tmp_path, "camera_info": calibration, "index": tmp_path / "no" / "index.csv"}, [
        "index.csv",
        "cannot be written",
    ]


def full_disk(tmp_path, calibration):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((32, 64, 3), np.uint8))
    return {"input": tmp_path, "camera_info": calibration, "index": "/dev/full"}, ["/dev/full", "No space left on device"]


def unknown_qos(tmp_path, calibration):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((32, 64, 3), np.uint8))
    wrong = {"qos_overrides./image.publisher.reliability": "besteffort"}
    return {"input": tmp_path, "camera_info": calibration, **wrong}, ["/image", "besteffort", "best_effort"]


def damaged_bag(tmp_path, calibration):
    """It opens, and its third image is cut off."""
    write_bag(tmp_path / "bag", StoragePlugin.SQLITE3, compressed=False)
    (file,) = (tmp_path / "bag").glob("*.db3")
    with sqlite3.connect(file) as database:
        database.execute("UPDATE messages SET data = substr(data, 1, 1000) WHERE timestamp = 100000000")
    return {"input": tmp_path / "bag"}, [str(tmp_path / "bag"), "cannot be read any further"]


def no_subscribers(tmp_path, calibration):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((32, 64, 3), np.uint8))
    waiting = {"wait_for_subscribers": 1, "wait_timeout_s": 0.2}
    return {"input": tmp_path, "camera_info": calibration, **waiting}, ["0 subscribers on /image after 0.2 s; expected 1"]


def mistyped_parameter(tmp_path, calibration):
    return {"input": tmp_path, "camera_inf": calibration}, ["'camera_inf' is unknown", "did you mean 'camera_info'"]


def nothing_to_play(tmp_path, calibration):
    return {"camera_info": calibration}, ["'input' is missing", "video"]


def negative_rate(tmp_path, calibration):
    return {"input": tmp_path, "rate": -5}, ["rate is -5 Hz", "positive"]


@pytest.mark.parametrize(
    "fault",
    [
        no_such_input, empty_folder, unreadable_video, nothing_readable, other_size, missing_calibration, no_camera_info,
        incomplete_calibration, broken_bag, bag_without_images, bag_with_two_cameras, unwritable_index, full_disk,
        unknown_qos, damaged_bag, no_subscribers, bag_without_metadata, mistyped_parameter, nothing_to_play, negative_rate,
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_line(start, tmp_path, calibration, fault):
    parameters, expected = fault(tmp_path, calibration)
    process = start(PLAYER, **parameters)
    assert process.wait() == 1
    lines = [line for line in process.log().splitlines() if line.strip()]
    assert len(lines) == 1, process.log()
    for text in expected:
        assert text in lines[0]


def test_real_video(start, client, shared_data, tmp_path):
    """A hand-held clip of OpenCV's samples, at its own rate, all frames."""
    file = shared_data / "opencv_samples" / "tree.mp4"
    capture = cv2.VideoCapture(str(file))
    frames = []
    while (item := capture.read())[0]:
        frames.append(item[1])
    height, width = frames[0].shape[:2]
    save_calibration(CameraModel(width, height, 300.0, 300.0, width / 2, height / 2), tmp_path / "tree.yaml")
    process, images, _ = play(start, client, input=file, camera_info=tmp_path / "tree.yaml", rate=60)
    assert process.wait() == 0, process.log()
    assert len(images) == len(frames)
    for at, frame in zip(sorted(images), frames, strict=True):
        np.testing.assert_array_equal(np.frombuffer(images[at].data, np.uint8), frame.ravel())
    assert stamp(images[max(images)]) == max(images)

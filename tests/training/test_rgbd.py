"""RGB-D video: association by time stamp, interpolated poses, 7-Scenes' two cameras, and the official splits of each set."""

from __future__ import annotations

import json
import math
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from scipy.io import savemat

from depth_ros.types import CameraModel, InputError
from training.config import ConfigError, DataConfig
from training.data.clips import Clips
from training.data.recording import Target
from training.data.rgbd import SEVENSCENES_CAMERA, SEVENSCENES_DEPTH_CAMERA, associate, interpolate_poses, register_depth
from training.data.sources import open_source
from training.data.truth import open_evaluation_set

SIZE = (32, 24)
START_S = 1305031102.0
YAW_RATE = math.radians(90)  # [rad/s] of the test's sequence, about y; it drives along x at 1 m/s


def open_part(root: Path, source: str, part: str, **keys: object) -> list[Target]:
    return open_source(DataConfig(root=str(root), source=source, **keys), part)


@pytest.fixture
def sequence(tmp_path: Path) -> Path:
    """A TUM sequence of 10 frames at 30 Hz; depth 5 ms late, none for frame 4; poses at 100 Hz that end with frame 8."""
    folder = tmp_path / "tum" / "desk"
    lists: dict[str, list[str]] = {"rgb": ["# color images", "# timestamp filename"], "depth": []}
    for kind in lists:
        (folder / kind).mkdir(parents=True)
    for index in range(10):
        stamp = START_S + index / 30
        for kind, late, picture in (
            ("rgb", 0.0, np.full((*SIZE[::-1], 3), 20 * index, np.uint8)),
            ("depth", 0.005, np.full(SIZE[::-1], 5000 * (1 + index), np.uint16)),
        ):
            if (kind, index) != ("depth", 4):
                name = f"{kind}/{stamp + late:.6f}.png"
                cv2.imwrite(str(folder / name), picture)
                lists[kind].append(f"{stamp + late:.6f} {name}")
    for kind, lines in lists.items():
        (folder / f"{kind}.txt").write_text("\n".join(lines) + "\n")
    times = np.arange(-0.013, 8.5 / 30, 0.01)
    half = YAW_RATE * times / 2
    rows = [f"{START_S + t:.4f} {t:.6f} 0 0 0 {math.sin(h):.9f} 0 {math.cos(h):.9f}" for t, h in zip(times, half, strict=True)]
    (folder / "groundtruth.txt").write_text("# timestamp tx ty tz qx qy qz qw\n" + "\n".join(rows) + "\n")
    meta = {"K": [[30, 0, 15.5], [0, 30, 11.5], [0, 0, 1]], "width": SIZE[0], "height": SIZE[1]}
    (tmp_path / "camera.json").write_text(json.dumps(meta))
    return folder


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_tum_poses_are_interpolated_and_depth_is_the_nearest(sequence: Path) -> None:
    """After t seconds the camera is t metres to the right, turned by t quarters about y."""
    targets = open_part(sequence.parents[1], "tum", "train", path="tum/desk", calibration="camera.json")
    assert [t.index for t in targets] == list(range(9))  # frame 9 has no pose
    recording = targets[0].recording
    for index in range(9):
        t = index / 30
        c, s = math.cos(YAW_RATE * t), math.sin(YAW_RATE * t)
        expected = [[c, 0, s, t], [0, 1, 0, 0], [-s, 0, c, 0], [0, 0, 0, 1]]
        assert recording.world_T_camera[index] == pytest.approx(np.array(expected), abs=2e-4)
        depth = recording.depth(index)
        assert depth is None if index == 4 else depth[0, 0] == 1 + index
    clips = Clips(targets, SIZE, offsets=((-1, 1),), depth=True)
    assert (len(clips), clips.skipped) == (7, 2)
    t_before, t_after = np.linalg.inv(recording.world_T_camera[[0, 2]]) @ recording.world_T_camera[1]
    assert clips[0].views[0].source_T_target == pytest.approx(t_before)
    assert clips[0].views[1].source_T_target == pytest.approx(t_after)


def test_what_tum_cannot_match_is_counted(sequence: Path) -> None:
    with pytest.warns(UserWarning, match=r"images have no") as caught:
        open_part(sequence, "tum", "train", calibration=str(sequence.parents[1] / "camera.json"))
    messages = [str(w.message) for w in caught]
    assert any("1 of 10 images have no depth within 0.02 s; the first is" in m and "133333.png" in m for m in messages), messages
    assert any("groundtruth.txt: 1 of 10 images have no pose within 0.02 s before and after" in m for m in messages), messages


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_tum_is_judged_wherever_there_is_depth(sequence: Path) -> None:
    (sequence / "groundtruth.txt").unlink()
    targets = open_part(sequence.parents[1], "tum", "test", path="tum", calibration="camera.json")
    assert len(targets) == 10
    assert targets[0].recording.world_T_camera is None
    assert targets[3].recording.image_name(3).startswith("desk/rgb/1305031102.1")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_tum_sequences_are_chosen_by_name_or_split_by_frames(sequence: Path) -> None:
    root = sequence.parents[1]
    (root / "splits").mkdir()
    (root / "splits" / "val_files.txt").write_text("desk\n")
    camera = {"calibration": "camera.json", "path": "tum"}
    assert len(open_part(root, "tum", "val", split=str(root / "splits"), **camera)) == 9
    assert len(open_part(root, "tum", "val", val_frames=(2, 5), **camera)) == 3


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_missing_image_of_tum_is_reported(sequence: Path) -> None:
    next((sequence / "rgb").iterdir()).unlink()
    with pytest.warns(UserWarning, match=r"rgb.txt: 1 of 10 files are missing; the first is .*rgb/130"):
        targets = open_part(sequence, "tum", "test", calibration=str(sequence.parents[1] / "camera.json"))
    assert len(targets) == 9


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rgb.txt", "yesterday rgb/1.png", r"rgb.txt: found 'yesterday rgb/1.png'; expected 'time path'"),
        ("rgb.txt", "1.0 rgb/none.png", r"rgb.txt: names no file that exists"),
        ("depth.txt", None, r"depth.txt: .*No such file.*expected 'time path' a line"),
        ("groundtruth.txt", "1 2 3", r"groundtruth.txt: found '1 2 3'; expected 'time x y z qx qy qz qw': 8 finite numbers"),
        ("groundtruth.txt", "1 0 0 0 0 0 0 0\n2 0 0 0 0 0 0 0", r"groundtruth.txt: .*expected .* with unit quaternions"),
    ],
)
def test_a_bad_file_of_tum_is_named(sequence: Path, name: str, content: str | None, message: str) -> None:
    if content is None:
        (sequence / name).unlink()
    else:
        (sequence / name).write_text(content)
    with pytest.raises(InputError, match=message):
        open_part(sequence, "tum", "test")


def test_a_folder_without_sequences_and_a_distorted_camera_are_refused(sequence: Path) -> None:
    with pytest.raises(InputError, match=r"rgb: holds no rgb.txt; expected a TUM RGB-D sequence"):
        open_part(sequence / "rgb", "tum", "test")
    (sequence / "camera.yaml").write_text(
        "image_width: 32\nimage_height: 24\ncamera_name: a\n"
        "camera_matrix: {rows: 3, cols: 3, data: [30, 0, 15, 0, 30, 11, 0, 0, 1]}\n"
        "distortion_model: plumb_bob\ndistortion_coefficients: {rows: 1, cols: 5, data: [0.1, 0, 0, 0, 0]}\n"
        "rectification_matrix: {rows: 3, cols: 3, data: [1, 0, 0, 0, 1, 0, 0, 0, 1]}\n"
        "projection_matrix: {rows: 3, cols: 4, data: [30, 0, 15, 0, 0, 30, 11, 0, 0, 0, 1, 0]}\n"
    )
    with pytest.raises(ConfigError, match=r"camera.yaml has distortion; expected none"):
        open_part(sequence, "tum", "test", calibration="camera.yaml")


def test_partners_are_each_others_nearest() -> None:
    """Against all pairs, one by one."""
    rng = np.random.default_rng(0)
    stamps, others = (np.sort(rng.uniform(0, 2, count)) for count in (60, 50))
    distance = np.abs(stamps[:, None] - others[None])
    expected = [
        int(np.argmin(row)) if row.min() <= 0.02 and np.argmin(distance[:, np.argmin(row)]) == index else -1
        for index, row in enumerate(distance)
    ]
    assert associate(stamps, others).tolist() == expected
    assert 10 < sum(match >= 0 for match in expected) < 60
    assert associate(np.array([1.0, 5.0]), np.array([1.01])).tolist() == [0, -1]


def test_a_gap_in_the_trajectory_is_no_pose() -> None:
    rows = np.array([[t, t, 0, 0, 0, 0, 0, 1] for t in (0.0, 0.01, 0.5, 0.51)])
    poses = interpolate_poses(np.array([-0.005, 0.005, 0.2, 0.505, 0.6]), rows)
    assert np.isfinite(poses).all(axis=(1, 2)).tolist() == [False, True, False, True, False]
    assert poses[[1, 3], 0, 3] == pytest.approx([0.005, 0.505])


def test_a_point_is_where_the_other_camera_sees_it() -> None:
    """One by one through the pinhole formulas; of two that meet, the nearer one stays."""
    camera, other = CameraModel(640, 480, 585.0, 585.0, 320.0, 240.0), CameraModel(640, 480, 525.0, 525.0, 320.0, 240.0)
    depth = np.zeros((480, 640), np.float32)
    points = {(100, 200): 1.0, (240, 320): 2.5, (400, 620): 4.0, (10, 3): 0.4}
    for pixel, z in points.items():
        depth[pixel] = z
    expected = np.zeros_like(depth)
    for (row, column), z in points.items():
        x, y = (column - 320) / 585 * z, (row - 240) / 585 * z
        u, v = round(525 * (x - 0.025) / z + 320), round(525 * y / z + 240)
        if 0 <= u < 640:
            expected[v, u] = z
    assert np.array_equal(register_depth(depth, camera, other, 0.025), expected)
    depth = np.zeros((480, 640), np.float32)
    depth[240, 320], depth[240, 321] = 2.0, 1.9  # both at 525 x / 585 within one pixel of the other camera
    registered = register_depth(depth, camera, CameraModel(64, 48, 52.5, 52.5, 32.0, 24.0), 0.0)
    assert registered[24, 32] == pytest.approx(1.9)
    assert (registered > 0).sum() == 1


def write_sevenscenes(folder: Path, count: int = 2, pose: np.ndarray | None = None) -> None:
    """Frames that all look at a wall 2 m before the depth camera, with one pixel that Kinect did not measure."""
    folder.mkdir(parents=True)
    depth = np.full((480, 640), 2000, np.uint16)
    depth[240, 320], depth[0, 0] = 65535, 0
    for index in range(count):
        cv2.imwrite(str(folder / f"frame-{index:06d}.color.png"), np.zeros((480, 640, 3), np.uint8))
        cv2.imwrite(str(folder / f"frame-{index:06d}.depth.png"), depth)
        np.savetxt(folder / f"frame-{index:06d}.pose.txt", np.eye(4) if pose is None else pose)


def test_sevenscenes_follows_its_split_files(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        write_sevenscenes(tmp_path / f"seq-{number:02d}", count=number)
    (tmp_path / "TrainSplit.txt").write_text("sequence1\nsequence3\n")
    (tmp_path / "TestSplit.txt").write_text("sequence2\n")
    dataset = open_evaluation_set(tmp_path, source="7scenes")
    items = list(dataset)
    assert [item.name for item in items] == [f"seq-02/frame-00000{i}.color.png" for i in (0, 1)]
    assert len(open_part(tmp_path, "7scenes", "train")) == 4
    assert len(open_part(tmp_path, "7scenes", "val", val_frames=(0, 1))) == 2
    truth = items[0].truth
    measured = truth > 0
    assert np.unique(truth[measured]).tolist() == [2.0]
    # The wall fills 525 / 585 of the colour image, moved by 525 x 0.025 / 2 px; one pixel in it was not measured.
    rows, columns = np.flatnonzero(measured.any(axis=1)), np.flatnonzero(measured.any(axis=0))
    assert (rows[0], rows[-1]) == (round(240 - 240 * 525 / 585), round(240 + 239 * 525 / 585))
    shift = 525 * 0.025 / 2
    assert (columns[0], columns[-1]) == (round(320 - 320 * 525 / 585 - shift), round(320 + 319 * 525 / 585 - shift))


def test_the_colour_camera_of_sevenscenes_is_right_of_the_depth_camera(tmp_path: Path) -> None:
    turned = np.array([[0.0, 0, 1, 5], [0, 1, 0, 6], [-1, 0, 0, 7], [0, 0, 0, 1]])  # the camera's x axis is the world's -z
    write_sevenscenes(tmp_path / "seq-01", pose=turned)
    recording = open_part(tmp_path, "7scenes", "train", path="seq-01")[0].recording
    assert recording.world_T_camera[0, :3, 3] == pytest.approx([5, 6, 7 - 0.025])


def test_a_frame_of_sevenscenes_without_a_pose_is_not_trained_on(tmp_path: Path) -> None:
    write_sevenscenes(tmp_path / "seq-01", count=3)
    (tmp_path / "seq-01" / "frame-000001.pose.txt").unlink()
    with pytest.warns(UserWarning, match=r"seq-01: 1 of 6 depth and pose files are missing; the first is .*000001.pose.txt"):
        targets = open_part(tmp_path / "seq-01", "7scenes", "train")
    assert [t.index for t in targets] == [0, 2]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("TrainSplit.txt", None, r"TrainSplit.txt: .*expected sequence1 and so on"),
        ("TrainSplit.txt", "seq-01", r"TrainSplit.txt: found 'seq-01'; expected sequence1 and so on"),
        ("TrainSplit.txt", "sequence7", r"seq-07: holds no frame-000000.color.png"),
        ("seq-01/frame-000000.pose.txt", "1 0 0 0\n", r"pose.txt: holds 1 lines; expected a camera-to-world matrix"),
        ("seq-01/frame-000000.pose.txt", "1 0 nan 0\n", r"pose.txt: found '1 0 nan 0'; expected a camera-to-world matrix"),
    ],
)
def test_a_bad_file_of_sevenscenes_is_named(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    write_sevenscenes(tmp_path / "seq-01", count=1)
    if content is not None:
        (tmp_path / "TrainSplit.txt").write_text("sequence1")
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        open_part(tmp_path, "7scenes", "train")


def test_real_frames_of_sevenscenes(shared_data: Path, tmp_path: Path) -> None:
    """Red kitchen's frames, laid out as published: depth goes back to the depth camera, and the reader registers it again."""
    source = shared_data / "sevenscenes_redkitchen"
    poses = np.tile(np.eye(4), (220, 1, 1))
    poses[:, :3] = np.loadtxt(source / "poses.txt").reshape(-1, 3, 4)
    aside = np.eye(4)
    aside[0, 3] = -0.025
    folder = tmp_path / "seq-01"
    folder.mkdir()
    images = sorted((source / "image").iterdir())[:9:4]
    for index, image in enumerate(images):
        stem = f"frame-{index:06d}"
        cv2.imwrite(str(folder / f"{stem}.color.png"), cv2.imread(str(image)), [cv2.IMWRITE_PNG_COMPRESSION, 1])
        stored = cv2.imread(str(source / "depth" / f"{image.stem}.png"), cv2.IMREAD_UNCHANGED)
        back = register_depth(stored / np.float32(1000), SEVENSCENES_CAMERA, SEVENSCENES_DEPTH_CAMERA, -0.025)
        cv2.imwrite(str(folder / f"{stem}.depth.png"), np.where(back > 0, back * 1000, 65535).astype(np.uint16))
        np.savetxt(folder / f"{stem}.pose.txt", poses[4 * index] @ aside)
    targets = open_part(folder, "7scenes", "train")
    recording = targets[0].recording
    assert recording.world_T_camera == pytest.approx(poses[:9:4], abs=1e-6)
    for index, image in enumerate(images):
        stored = cv2.imread(str(source / "depth" / f"{image.stem}.png"), cv2.IMREAD_UNCHANGED) / 1000
        depth = recording.depth(index)
        both = (stored > 0) & (depth > 0)
        assert both.sum() > 0.7 * (stored > 0).sum()
        assert np.median(np.abs(depth - stored)[both] / stored[both]) < 0.01
    sample = Clips(targets, (160, 120), offsets=((1,),), depth=True)[0]
    assert 0 < np.linalg.norm(sample.views[0].source_T_target[:3, 3]) < 0.5
    assert (sample.depth > 0).mean() > 0.5


@pytest.fixture
def nyu(tmp_path: Path) -> Path:
    """Four pairs in the toolbox's file: pair k is k everywhere but at one pixel; raw depth is half of the filled one."""
    images = np.zeros((4, 3, 640, 480), np.uint8)
    depths = np.zeros((4, 640, 480), np.float32)
    for index in range(4):
        images[index] = 10 * (index + 1)
        images[index, :, 600, 7] = (1, 2, 3)  # column 600, row 7
        depths[index] = index + 1
        depths[index, 600, 7] = 9
    with h5py.File(tmp_path / "nyu_depth_v2_labeled.mat", "w") as data:
        for name, array in (("images", images), ("depths", depths), ("rawDepths", depths / 2)):
            data.create_dataset(name, data=array, compression="lzf")
    savemat(tmp_path / "splits.mat", {"trainNdxs": np.array([[1], [2], [4]]), "testNdxs": np.array([[3]])})
    return tmp_path


def test_nyu_is_transposed_and_counts_from_one(nyu: Path) -> None:
    (item,) = open_evaluation_set(nyu, source="nyu")
    assert item.name == "0003.png"
    assert item.frame.image.shape == (480, 640, 3)
    assert item.frame.image[7, 600].tolist() == [1, 2, 3]
    assert (item.frame.image[0, 0, 0], item.truth[0, 0], item.truth[7, 600]) == (30, 3.0, 9.0)
    (raw,) = open_evaluation_set(nyu, source="nyu", truth="rawDepths")
    assert raw.truth[0, 0] == 1.5
    train = open_part(nyu, "nyu", "train", train_frames=(1, -1))
    assert [t.recording.image_name(t.index) for t in train] == ["0002.png", "0004.png"]
    assert len(Clips(train, (64, 48), offsets=((),), depth=True)) == 2


def test_bad_files_of_nyu_are_named(nyu: Path) -> None:
    with pytest.raises(InputError, match=r"data.truth is 'depth'; expected depths or rawDepths"):
        open_part(nyu, "nyu", "test", truth="depth")
    savemat(nyu / "splits.mat", {"testNdxs": np.array([[654]])})
    with pytest.raises(InputError, match=r"nyu_depth_v2_labeled.mat: holds 4 pairs, but splits.mat names 654"):
        open_part(nyu, "nyu", "test")
    with pytest.raises(InputError, match=r"splits.mat: 'trainNdxs'; expected the official splits"):
        open_part(nyu, "nyu", "train")
    (nyu / "splits.mat").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"splits.mat: .*expected the official splits"):
        open_part(nyu, "nyu", "test")
    savemat(nyu / "splits.mat", {"testNdxs": np.array([[1]])})
    whole = (nyu / "nyu_depth_v2_labeled.mat").read_bytes()
    (nyu / "nyu_depth_v2_labeled.mat").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"labeled.mat: .*truncated.*; expected nyu_depth_v2_labeled.mat with images"):
        open_part(nyu, "nyu", "test")
    with h5py.File(nyu / "nyu_depth_v2_labeled.mat", "w") as data:
        data["images"], data["depths"] = np.zeros((1, 3, 6, 4), np.uint8), np.zeros((1, 6, 4))
    with pytest.raises(InputError, match=r"found .*expected images \(N, 3, 640, 480\) and depths \(N, 640, 480\)"):
        open_part(nyu, "nyu", "test")

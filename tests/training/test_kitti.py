"""KITTI raw: split files, neighbours by frame number, per-day calibration, lidar truth and poses; real files and small trees."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest

from depth_ros.types import InputError
from training.config import ConfigError, DataConfig
from training.data.clips import Clips
from training.data.kitti import velodyne
from training.data.kitti.calibration import read_calibration
from training.data.kitti.raw import Drive
from training.data.kitti.splits import Entry, read_split
from training.data.sources import open_source
from training.data.truth import open_evaluation_set

MINI_DRIVE = "2011_09_26/2011_09_26_drive_0048_sync"
WIDTH, HEIGHT, FX, BASELINE_M = 64, 32, 50.0, 0.5
IDENTITY = "1 0 0 0 1 0 0 0 1"
# Camera axes (x right, y down, z forward) of a Velodyne's or an IMU's (x forward, y left, z up).
AXES = "0 -1 0 0 0 -1 1 0 0"


def write_calibration(day: Path, width: int = WIDTH, fx: float = FX, left_x: float = 0.0, right_x: float = BASELINE_M) -> None:
    """Calibration of ideal cameras at x = left_x and right_x [m]; the Velodyne and the IMU sit in camera 0."""
    day.mkdir(parents=True, exist_ok=True)
    lines = ["calib_time: 09-Jan-2012 13:57:47", f"R_rect_00: {IDENTITY}"]
    for camera, x in ((2, left_x), (3, right_x)):
        lines += [f"S_rect_0{camera}: {width} {HEIGHT}", f"P_rect_0{camera}: {fx} 0 31.5 {-fx * x} 0 {fx} 15.5 0 0 0 1 0"]
    (day / "calib_cam_to_cam.txt").write_text("\n".join(lines))
    (day / "calib_velo_to_cam.txt").write_text(f"R: {AXES}\nT: 0 0 0\n")


def write_drive(root: Path, drive: str, frames: list[int], cameras: tuple[int, ...] = (2, 3), width: int = WIDTH) -> Path:
    """Images whose red is 10 times the frame number and whose green is the camera's number."""
    for camera in cameras:
        folder = root / drive / f"image_0{camera}" / "data"
        folder.mkdir(parents=True)
        for frame in frames:
            picture = np.full((HEIGHT, width, 3), (0, camera, 10 * frame), np.uint8)
            cv2.imwrite(str(folder / f"{frame:010d}.png"), picture)
    return root / drive


def write_split(folder: Path, part: str, *lines: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / f"{part}_files.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """One drive with frames 0, 1, 2, 4, 5 of both cameras: frame 3 is missing."""
    write_calibration(tmp_path / "2011_09_26")
    write_drive(tmp_path, "2011_09_26/2011_09_26_drive_0001_sync", [0, 1, 2, 4, 5])
    return tmp_path


def config(root: Path, **values: object) -> DataConfig:
    return DataConfig(root=str(root), source="kitti_raw", **values)


def colours(clips: Clips, index: int) -> list[tuple[int, int]]:
    """Frame and camera of a sample's target and views, read off their colours."""
    sample = clips[index]
    return [(int(image[0, 0, 0]) // 10, int(image[0, 0, 1])) for image in (sample.image, *(v.image for v in sample.views))]


def test_a_split_lists_left_and_right_targets_with_neighbours_of_their_own_camera(root: Path) -> None:
    drive = "2011_09_26/2011_09_26_drive_0001_sync"
    split = write_split(root / "zhou", "train", f"{drive} 0000000001 r", f"{drive} 1 l", f"{drive} 5 l")
    for stereo, partners in ((False, ([], [])), (True, ([(1, 2)], [(1, 3)]))):
        targets = open_source(config(root, split=split.name, stereo=stereo), "train")
        clips = Clips(targets, (WIDTH, HEIGHT), stereo=stereo, known_poses=False)
        assert (len(clips), clips.skipped) == (2, 1)  # 5 has no 6
        assert colours(clips, 0) == [(1, 3), (0, 3), (2, 3), *partners[0]]
        assert colours(clips, 1) == [(1, 2), (0, 2), (2, 2), *partners[1]]


def test_neighbours_are_found_by_frame_number(root: Path) -> None:
    drive = Drive(root, "2011_09_26/2011_09_26_drive_0001_sync", (2,))
    assert drive.frames == [0, 1, 2, 4, 5]
    assert [drive.neighbour(2, offset) for offset in (-2, -1, 1, 2, 3, 4)] == [0, 1, None, 3, 4, None]


def test_eigens_list_of_files_and_monodepth2s_list_of_frames_mean_the_same(tmp_path: Path) -> None:
    drive = "2011_09_26/2011_09_26_drive_0002_sync"
    split = write_split(
        tmp_path / "eigen", "test",
        f"{drive}/image_02/data/0000000069.png",
        f"{drive}/image_02/data/0000000069.jpg {drive}/image_03/data/0000000069.jpg",
        f"{drive} 0000000069 l",
        f"{drive} 69",
        "",
        f"{drive}/image_03/data/0000000070.png",
        f"{drive} 70 r",
    )  # fmt: skip
    assert read_split(split / "test_files.txt") == [Entry(drive, 69, False)] * 4 + [Entry(drive, 70, True)] * 2


def test_a_line_that_is_no_image_is_named(tmp_path: Path) -> None:
    split = write_split(tmp_path / "s", "train", "2011_09_26/2011_09_26_drive_0002_sync 4 l", "2011_09_26 5 m")
    with pytest.raises(
        InputError, match=r"train_files.txt: found '2011_09_26 5 m'; expected lines '<date>/<drive> <frame> l\|r'"
    ):
        read_split(split / "train_files.txt")


def test_listed_images_that_are_missing_are_counted_and_said_once(root: Path) -> None:
    drive, other = "2011_09_26/2011_09_26_drive_0001_sync", "2011_09_28/2011_09_28_drive_0001_sync"
    split = write_split(root / "s", "train", f"{drive} 1 l", f"{drive} 3 r", f"{other} 1 l", f"{drive} 4 r")
    with pytest.warns(UserWarning, match=rf"2 of 4 images are left out.*the first is {drive} 3 r") as caught:
        targets = open_source(config(root, split=str(split)), "train")
    assert (len(targets), len(caught)) == (2, 1)
    write_split(root / "s", "val", f"{other} 1 l")
    with pytest.raises(InputError, match=rf"holds none of the 1 images of .*val_files.txt, the first {other} 1 l"):
        open_source(config(root, split=str(split)), "val")
    with pytest.raises(InputError, match=r"data.split is 's', but there is neither .*s/test_files.txt nor s/test_files.txt"):
        open_source(config(root, split="s", truth="improved"), "test")


def test_a_pair_needs_both_images_a_single_camera_does_not(root: Path) -> None:
    (root / "2011_09_26/2011_09_26_drive_0001_sync/image_03/data/0000000001.png").unlink()
    with pytest.warns(UserWarning, match=r"1 of 5 images are left out"):
        pairs = open_source(config(root, stereo=True), "train")
    assert [(t.recording.image_name(t.index, t.right)[-22:], t.right) for t in pairs[:2]] == [
        ("02/data/0000000000.png", False),
        ("03/data/0000000000.png", True),
    ]
    assert len(pairs) == 8
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(open_source(config(root), "train")) == 5 + 4


def test_all_holds_every_tenth_drive_out_and_every_day_has_its_own_camera(tmp_path: Path) -> None:
    write_calibration(tmp_path / "2011_09_26")
    write_calibration(tmp_path / "2011_10_03", width=48, fx=40.0)
    names = [f"2011_09_26/2011_09_26_drive_{n:04d}_sync" for n in range(1, 11)] + ["2011_10_03/2011_10_03_drive_0027_sync"]
    for name in names:
        write_drive(tmp_path, name, [0], (2,), width=48 if "10_03" in name else WIDTH)
    drives = {part: [t.recording for t in open_source(config(tmp_path, split="all"), part)] for part in ("train", "val")}
    held_out = [drive.image_name(0) for drive in drives["val"]]
    assert held_out == [f"{names[9]}/image_02/data/0000000000.png"]
    assert [drive.image_name(0)[: len(names[0])] for drive in drives["train"]] == [n for n in names if n != names[9]]
    first, last = drives["train"][0], drives["train"][-1]
    assert (first.camera(0).width, first.camera(0).fx, last.camera(0).width, last.camera(0).fx) == (WIDTH, FX, 48, 40.0)
    assert last.image(0)[0].shape == (HEIGHT, 48, 3)


def test_one_drive_is_split_by_frames_without_neighbours_across(root: Path) -> None:
    targets = open_source(config(root, train_frames=(0, 2), val_frames=(2, 5)), "train")
    assert len(targets) == 4
    assert all(t.recording.neighbour(1, 1) is None for t in targets)


def test_images_of_another_size_than_the_calibration_says_are_refused(root: Path) -> None:
    write_calibration(root / "2011_09_26", width=80)
    with pytest.raises(InputError, match=r"0000000000.png: is 64x32, but its calibration says 80x32"):
        open_source(config(root), "train")[0].recording.image(0)


@pytest.mark.parametrize(
    ("left_x", "right_x", "found"), [(0.0, 0.5, 0.5), (-0.06, 0.47, 0.53), (0.5, 0.0, None), (0.2, 0.2, None)]
)
def test_the_right_camera_is_to_the_right(root: Path, left_x: float, right_x: float, found: float | None) -> None:
    write_calibration(root / "2011_09_26", left_x=left_x, right_x=right_x)
    if found is None:
        with pytest.raises(InputError, match=r"calib_cam_to_cam.txt: the right camera is .* m to the right of the left one"):
            open_source(config(root, stereo=True), "train")
    else:
        assert open_source(config(root, stereo=True), "train")[0].recording.baseline_m == pytest.approx(found)


def test_calibration_that_is_missing_or_cut_off_is_named(root: Path) -> None:
    file = root / "2011_09_26" / "calib_cam_to_cam.txt"
    file.write_text("\n".join(line for line in file.read_text().splitlines() if not line.startswith("P_rect_02")))
    with pytest.raises(InputError, match=r"calib_cam_to_cam.txt: 'P_rect_02' has 0 numbers; expected 12"):
        open_source(config(root), "train")
    file.unlink()
    with pytest.raises(InputError, match=r"calib_cam_to_cam.txt: .*No such file"):
        open_source(config(root), "train")


def test_the_truth_to_judge_by_has_to_be_chosen_and_to_exist(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"data.truth is ''; expected velodyne_x .*, velodyne_z .* or improved"):
        open_source(config(root), "test")
    with pytest.raises(ConfigError, match=r"data.truth is 'lidar'"):
        open_source(config(root, truth="lidar"), "train")
    with pytest.raises(InputError, match=r"none of 5 images has its truth 'velodyne_z'; expected <drive>/velodyne_points"):
        open_source(config(root, truth="velodyne_z"), "test")


@pytest.mark.parametrize("place", ["2011_09_26/2011_09_26_drive_0001_sync", "val/2011_09_26_drive_0001_sync"])
def test_improved_truth_is_read_beside_the_images_or_as_it_is_distributed(root: Path, place: str) -> None:
    folder = root / place / "proj_depth" / "groundtruth" / "image_02"
    folder.mkdir(parents=True)
    stored = np.zeros((HEIGHT, WIDTH), np.uint16)
    stored[3, 7] = 3200
    cv2.imwrite(str(folder / "0000000004.png"), stored)
    items = list(open_evaluation_set(root, "kitti_raw", truth="improved"))
    assert [item.name[-14:] for item in items] == ["0000000004.png"]
    assert (items[0].truth[3, 7], np.count_nonzero(items[0].truth)) == (12.5, 1)


def test_a_point_lands_where_the_ideal_camera_sees_it(root: Path) -> None:
    """Rounded, minus 1: the point straight ahead at (31.5, 15.5) px lands on (31, 15); of two, the nearer one counts."""
    image_T_velodyne = np.array([[31.5, -50, 0, 0], [15.5, 0, -50, 0], [1, 0, 0, 0]])
    points = [(10, 0, 0), (8, 0, 0), (5, -1, 0.5), (-5, 0, 0), (1, 50, 0)]
    depth = velodyne.depth_image(np.array(points, np.float32), image_T_velodyne, WIDTH, HEIGHT, forward=False)
    assert {(int(v), int(u)): float(depth[v, u]) for v, u in np.argwhere(depth)} == {(15, 31): 8.0, (9, 41): 5.0}


def test_a_sweep_that_is_cut_off_is_refused(root: Path) -> None:
    folder = root / "2011_09_26/2011_09_26_drive_0001_sync/velodyne_points/data"
    folder.mkdir(parents=True)
    (folder / "0000000000.bin").write_bytes(bytes(40))
    with pytest.raises(InputError, match=r"0000000000.bin: has 40 bytes; expected a multiple of 16"):
        Drive(root, "2011_09_26/2011_09_26_drive_0001_sync", (2,), "velodyne_x").depth(0)


def slow_depth(root: Path, camera: int, forward: bool) -> dict[tuple[int, int], float]:
    """The published protocol, one point at a time, in plain numbers."""
    cameras, lidar = (
        read_calibration(root / "2011_09_26" / f"calib_{name}.txt").values for name in ("cam_to_cam", "velo_to_cam")
    )
    R, T, rectify, P = lidar["R"], lidar["T"], cameras["R_rect_00"], cameras[f"P_rect_0{camera}"]
    nearest: dict[tuple[int, int], float] = {}
    for point in np.fromfile(root / MINI_DRIVE / "velodyne_points/data/0000000001.bin", np.float32).reshape(-1, 4).tolist():
        x, y, z, _ = point
        if x < 0:
            continue
        a, b, c = (R[3 * i] * x + R[3 * i + 1] * y + R[3 * i + 2] * z + T[i] for i in range(3))
        a, b, c = (rectify[3 * i] * a + rectify[3 * i + 1] * b + rectify[3 * i + 2] * c for i in range(3))
        u, v, w = (P[4 * i] * a + P[4 * i + 1] * b + P[4 * i + 2] * c + P[4 * i + 3] for i in range(3))
        row, column = round(v / w) - 1, round(u / w) - 1
        if 0 <= row < 375 and 0 <= column < 1242:
            value = x if forward else w
            nearest[row, column] = min(value, nearest.get((row, column), math.inf))
    return nearest


@pytest.mark.parametrize(("camera", "truth"), [(2, "velodyne_x"), (3, "velodyne_z")])
def test_real_lidar_is_projected_as_a_slow_loop_does(shared_data: Path, camera: int, truth: str) -> None:
    root = shared_data / "kitti_raw_mini"
    depth = Drive(root, MINI_DRIVE, (2, 3), truth).depth(1, right=camera == 3)
    expected = slow_depth(root, camera, truth == "velodyne_x")
    found = {(int(v), int(u)): float(depth[v, u]) for v, u in np.argwhere(depth)}
    assert depth.shape == (375, 1242)
    assert found.keys() == expected.keys()
    assert [found[pixel] for pixel in expected] == pytest.approx(list(expected.values()), rel=1e-6)


def test_forward_x_and_camera_z_differ_by_where_the_velodyne_sits(shared_data: Path) -> None:
    """Calculated by hand from the calibration: 10 m ahead of the Velodyne is 9.7301 m ahead of camera 2, at (613.96, 175.01)."""
    drive = Drive(shared_data / "kitti_raw_mini", MINI_DRIVE, (2,))
    image_T_velodyne = drive._P[0] @ drive._rectified_T_velodyne
    point = np.array([[10, 0, 0]], np.float32)
    x, z = (velodyne.depth_image(point, image_T_velodyne, 1242, 375, forward=forward) for forward in (True, False))
    assert np.argwhere(x).tolist() == np.argwhere(z).tolist() == [[174, 613]]
    assert (x[174, 613], z[174, 613]) == pytest.approx((10.0, 9.7301), abs=1e-4)


def test_real_lidar_depth_and_baseline_carry_the_right_image_onto_the_left_one(shared_data: Path) -> None:
    """u_right = u - fx b / z: the sign of the baseline, K and the lidar agree, and other depths fit worse."""
    settings = config(shared_data / "kitti_raw_mini", stereo=True, truth="velodyne_z", known_poses=False)
    target = open_source(settings, "train")[2]
    drive, index = target.recording, target.index
    left, right = (drive.image(index, side)[0].astype(float).mean(axis=2) for side in (False, True))
    depth, fx = drive.depth(index), drive.camera(index).fx
    v, u = np.nonzero((depth > 0) & (depth < 25))
    assert drive.baseline_m == pytest.approx(0.532725, abs=5e-5)

    def error(factor: float) -> float:
        there = np.round(u - fx * drive.baseline_m / (factor * depth[v, u])).astype(int)
        inside = (there >= 0) & (there < right.shape[1])
        return float(np.mean(np.abs(left[v, u][inside] - right[v[inside], there[inside]])))

    assert error(1.0) < 0.8 * min(error(0.9), error(1.1), error(-1.0))


def test_a_real_triplet_trains(shared_data: Path) -> None:
    settings = config(shared_data / "kitti_raw_mini", stereo=True)
    clips = Clips(open_source(settings, "train"), (192, 64), stereo=True, known_poses=False)
    left, right = clips[0], clips[1]
    assert (len(clips), clips.skipped) == (2, 4)  # frame 1 of both cameras
    assert [sample.views[2].source_T_target[0, 3] for sample in (left, right)] == pytest.approx([-0.5327, 0.5327], abs=1e-4)
    assert (left.image == right.views[2].image).all()
    assert left.K[0, 0] == pytest.approx(721.5377 * 192 / 1240)  # a JPEG decoded at a quarter loses two columns


def write_oxts(drive: Path, frames: dict[int, str]) -> None:
    folder = drive / "oxts" / "data"
    folder.mkdir(parents=True)
    (drive.parent / "calib_imu_to_velo.txt").write_text(f"R: {IDENTITY}\nT: 0 0 0\n")
    for frame, line in frames.items():
        (folder / f"{frame:010d}.txt").write_text(line + " 0 0 0")


@pytest.mark.parametrize("left_x", [0.0, -0.06])
def test_a_drive_to_the_north_moves_the_camera_forward(root: Path, left_x: float) -> None:
    """On a sphere, 2 m to the north are 2 m / R of latitude; at 49 degrees, 1 m to the east is 1 m / (R cos 49) of longitude."""
    write_calibration(root / "2011_09_26", left_x=left_x)
    north, east = (math.degrees(metres / 6378137.0) for metres in (2.0, 1.0 / math.cos(math.radians(49))))
    drive = root / "2011_09_26/2011_09_26_drive_0001_sync"
    places = [(49 + n * north, 8 + n * east, 100 + 0.5 * n) for n in range(5)]
    lines = [f"{latitude:.12f} {longitude:.12f} {metres} 0 0 {math.pi / 2}" for latitude, longitude, metres in places]
    write_oxts(drive, dict(zip((0, 1, 2, 4, 5), lines, strict=True)))
    poses = Drive(root, "2011_09_26/2011_09_26_drive_0001_sync", (2,)).world_T_camera
    # Heading north, the camera looks along y of the world (north), its x axis is east; it sits left_x to the east of the IMU.
    assert poses[1][:3, :3] == pytest.approx(np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]]), abs=1e-9)
    assert poses[2][:3, 3] == pytest.approx([2.0 + left_x, 4.0, 1.0], abs=1e-4)
    sample = Clips(open_source(config(root), "train"), (WIDTH, HEIGHT))[0]
    assert sample.views[1].source_T_target[:3, 3] == pytest.approx([-1.0, 0.5, -2.0], abs=1e-4)


def test_pitch_and_roll_turn_the_camera_as_the_imu_says(root: Path) -> None:
    """Heading east. Positive pitch (about left) lowers the nose; positive roll (about forward) lifts the left side."""
    drive = root / "2011_09_26/2011_09_26_drive_0001_sync"
    write_oxts(drive, {0: "49 8 0 0 0.1 0", 1: "49 8 0 0.1 0 0"} | {n: "49 8 0 0 0 0" for n in (2, 4, 5)})
    poses = Drive(root, "2011_09_26/2011_09_26_drive_0001_sync", (2,)).world_T_camera
    forward, right = poses[0][:3, 2], poses[1][:3, 0]
    assert forward == pytest.approx([math.cos(0.1), 0, -math.sin(0.1)])
    assert right == pytest.approx([0, -math.cos(0.1), -math.sin(0.1)])


def test_an_oxts_file_that_is_missing_is_named(root: Path) -> None:
    drive = root / "2011_09_26/2011_09_26_drive_0001_sync"
    write_oxts(drive, {0: "49 8 0 0 0 0"})
    with pytest.raises(InputError, match=r"0000000001.txt: .*expected KITTI's oxts, or no folder oxts to do without poses"):
        Clips(open_source(config(root), "train"), (WIDTH, HEIGHT))

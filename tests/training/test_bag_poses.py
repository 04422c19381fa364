"""Poses of the camera from a robot's bag: odometry of its base, static transforms to its camera, interpolated to the images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from bag_writing import START_S, Written, info, odometry, raw, static, twist_stamped, write_bag

from depth_ros.types import CameraModel, InputError
from training import train
from training.batch import collate
from training.checkpoint import load_method
from training.config import DataConfig
from training.data.bags.frames import StaticFrames
from training.data.bags.odometry import Odometry
from training.data.bags.reader import BagReader, Stamped
from training.data.bags.recording import BagFolder, extract, open_bag
from training.data.clips import Clips
from training.data.street import Street, StreetConfig
from training.evaluate import describe_method
from training.geometry import warp

RECIPE = Path(__file__).resolve().parents[2] / "config" / "train" / "from_bag.yaml"
FRAMES, PERIOD_S, SIZE = 24, 0.1, (192, 64)
RENDERED_S = 0.2  # of the street's time between two images
STREET = Street(3, StreetConfig(movers=0.0, ego_speed_cars=0.0, noise=0.0))  # sways and bends: every axis turns


def place(turn: Sequence[float], position: Sequence[float]) -> np.ndarray:
    """Pose (4, 4) of a rotation vector [rad] and a position [m]."""
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = cv2.Rodrigues(np.array(turn, float))[0], position
    return pose


def quaternion(pose: np.ndarray) -> np.ndarray:
    """xyzw, from the axis and the angle."""
    turn = cv2.Rodrigues(pose[:3, :3])[0][:, 0]
    angle = np.linalg.norm(turn)
    return np.append(np.sinc(angle / 2 / np.pi) / 2 * turn, np.cos(angle / 2))


def link(parent: str, child: str, pose: np.ndarray) -> tuple[str, str, np.ndarray, np.ndarray]:
    return parent, child, pose[:3, 3], quaternion(pose)


# The base looks along x with z up, as robots do; the camera sits 1.2 m ahead of it, a little askew.
MAST_T_BASE = place((0.3, -0.2, 2.0), (0.5, 0.1, -1.1))
MAST_T_CAMERA = (
    MAST_T_BASE
    @ place(np.array([-1.0, 1.0, -1.0]) * 2 * np.pi / 3 / np.sqrt(3), (1.2, 0.3, 0.9))
    @ place((0.02, 0.05, -0.03), (0, 0, 0))
)
BASE_T_CAMERA = np.linalg.inv(MAST_T_BASE) @ MAST_T_CAMERA
ODOM_T_WORLD = place((0.4, -1.1, 0.7), (30.0, -12.0, 4.0))
CHAIN = (link("mast", "base_link", MAST_T_BASE), link("mast", "camera", MAST_T_CAMERA))  # the first against the way


def camera_at(seconds: float) -> np.ndarray:
    """world_T_camera of the renderer, at a time of the bag from its start on."""
    return STREET.pose(2.0 + RENDERED_S / PERIOD_S * seconds)


def base_at(seconds: float) -> np.ndarray:
    """odom_T_base."""
    return ODOM_T_WORLD @ camera_at(seconds) @ np.linalg.inv(BASE_T_CAMERA)


def relative(poses: np.ndarray) -> np.ndarray:
    """next_T_this of the images."""
    return np.linalg.inv(poses[1:]) @ poses[:-1]


@dataclass(frozen=True)
class Shot:
    """A rendered image with its exact depth."""

    seconds: float
    image: np.ndarray
    depth: np.ndarray


@pytest.fixture(scope="session")
def drive(camera: CameraModel) -> list[Shot]:
    shots = []
    for seconds in PERIOD_S * np.arange(FRAMES):
        seen = STREET.render(camera, camera_at(seconds), 2.0 + RENDERED_S / PERIOD_S * seconds)
        shots.append(Shot(float(seconds), seen.image, seen.depth))
    return shots


def images(drive: list[Shot], camera: CameraModel, frame: str = "camera", R: np.ndarray | None = None) -> list[Written]:
    return [
        message
        for shot in drive
        for message in (raw(shot.image, START_S + shot.seconds, frame=frame), info(camera, START_S + shot.seconds, R=R))
    ]


def wheels(seconds: Sequence[float], frame: str = "base_link") -> list[Written]:
    """Odometry of the base at these times."""
    poses = [base_at(s) for s in seconds]
    return [
        odometry(pose[:3, 3], START_S + s, quaternion=quaternion(pose), frame=frame)
        for s, pose in zip(seconds, poses, strict=True)
    ]


def bag(folder: Path, *messages: Written) -> None:
    write_bag(folder / "bag", sorted(messages, key=lambda message: message[1]))


@pytest.fixture
def config(tmp_path: Path) -> DataConfig:
    return DataConfig(
        source="bag", bag=str(tmp_path / "bag"), cache=str(tmp_path / "cache"), width=SIZE[0], height=SIZE[1], min_motion=0.003
    )


TIMES = tuple(PERIOD_S * np.arange(FRAMES))


def test_the_camera_s_poses_are_the_renderer_s_and_warp_neighbours_onto_their_targets(drive, config, tmp_path, camera) -> None:
    """A chain of two links, one of them against the way; the odometry's own world is another than the renderer's."""
    bag(tmp_path, *images(drive, camera), *wheels(TIMES), static(*CHAIN))
    targets = open_bag(config, "train")
    recording, exact = BagFolder(extract(config)), np.array([camera_at(s) for s in TIMES])
    assert len(recording) == FRAMES
    assert relative(recording.world_T_camera) == pytest.approx(relative(exact), abs=1e-6)
    assert recording.world_T_camera == pytest.approx(ODOM_T_WORLD @ exact, abs=1e-5)
    index = targets[4].index
    batch = collate([Clips(targets, SIZE)[index - 1]])  # the first image lacks a neighbour
    before, after = (view.source_T_target[0].double().numpy() for view in batch.views)
    assert before == pytest.approx(np.linalg.inv(exact[index - 1]) @ exact[index], abs=1e-5)
    assert after == pytest.approx(np.linalg.inv(exact[index + 1]) @ exact[index], abs=1e-5)
    depth = torch.from_numpy(drive[index].depth)[None, None]
    seen = ((depth > 8) & (depth < 100)).expand(1, 3, -1, -1)  # no sky, and what both images show
    for view in batch.views:
        warped = warp(view.image, depth, batch.K, view.K, view.source_T_target)
        unmoved, moved = ((picture - batch.image)[seen].abs().mean() for picture in (view.image, warped))
        assert moved < 0.5 * unmoved


def test_between_two_messages_positions_are_linear_and_rotations_slerp(drive, config, tmp_path, camera) -> None:
    """Odometry half a period off: the chord's middle and half the turn, which is what the renderer did, up to its curvature."""
    seconds = np.append(np.array(TIMES) - PERIOD_S / 2, TIMES[-1] + PERIOD_S / 2)
    bag(tmp_path, *images(drive, camera), *wheels(seconds), static(*CHAIN))
    poses = BagFolder(extract(config)).world_T_camera
    base = [base_at(s) for s in seconds]
    middle = []
    for a, b in pairwise(base):
        half = cv2.Rodrigues(a[:3, :3].T @ b[:3, :3])[0] / 2
        middle.append(place((0, 0, 0), (a[:3, 3] + b[:3, 3]) / 2))
        middle[-1][:3, :3] = a[:3, :3] @ cv2.Rodrigues(half)[0]
    assert poses == pytest.approx(np.array(middle) @ BASE_T_CAMERA, abs=1e-5)
    error = np.linalg.inv(ODOM_T_WORLD @ np.array([camera_at(s) for s in TIMES])) @ poses
    assert np.linalg.norm(error[:, :3, 3], axis=1).max() < 0.03  # of steps of 2 m
    assert max(np.linalg.norm(cv2.Rodrigues(e[:3, :3])[0]) for e in error) < np.radians(0.3)


def test_half_of_a_right_angle_is_45_degrees() -> None:
    """Also for a quaternion of the other sign, which is the same rotation; nothing beyond the ends or across a gap."""
    track = Odometry("/odom", max_gap_s=1.0)
    for seconds, degrees, sign in ((0.0, 0, 1), (1.0, 90, -1), (3.0, 90, 1)):
        half = np.radians(degrees) / 2
        written = odometry((2 * seconds, 0, 0), seconds, quaternion=(0, 0, sign * np.sin(half), sign * np.cos(half)))
        track.add(Stamped(written[0], written[1], written[2]))
    poses = track.poses([0] * 6, [-0.1, 0.5, 2 / 3, 1.0, 2.0, 3.1])
    assert np.isnan(poses[[0, 4, 5]]).all()
    assert poses[1, :3, 3] == pytest.approx((1, 0, 0))
    for pose, degrees in ((poses[1], 45), (poses[2], 60), (poses[3], 90)):
        assert pose[:3, :3] == pytest.approx(cv2.Rodrigues(np.array([0, 0, np.radians(degrees)]))[0], abs=1e-12)


def test_a_rectified_image_has_its_own_frame(drive, config, tmp_path, camera) -> None:
    """R of camera_info turns the camera: what comes out is what a camera with the turned pose sees, and has that pose."""
    R = place((0.03, -0.06, 0.04), (0, 0, 0))
    bag(tmp_path, *images(drive, camera, R=R[:3, :3]), *wheels(TIMES), static(*CHAIN))
    recording = BagFolder(extract(config))
    rectified = np.array([camera_at(s) for s in TIMES]) @ R.T
    assert relative(recording.world_T_camera) == pytest.approx(relative(rectified), abs=1e-6)
    pose = np.linalg.inv(ODOM_T_WORLD) @ recording.world_T_camera[5]
    inner = np.s_[18:-18, 30:-30]
    picture = recording.image(5)[0][inner].astype(float)
    right, unturned = (
        np.abs(picture - STREET.render(camera, view, 3.0).image[inner]).mean() for view in (pose, camera_at(TIMES[5]))
    )
    assert right < 0.4 * unturned


def test_odometry_of_the_camera_itself_needs_no_transforms(drive, config, tmp_path, camera) -> None:
    """As visual-inertial odometry may give; old drivers begin names with a slash."""
    bag(tmp_path, *images(drive, camera, frame="/eye"), *wheels(TIMES, frame="eye"))
    assert BagFolder(extract(config)).world_T_camera == pytest.approx(np.array([base_at(s) for s in TIMES]), abs=1e-5)


def test_images_within_a_gap_of_the_odometry_are_left_out_and_the_others_keep_their_poses(
    drive, config, tmp_path, camera
) -> None:
    seconds = [s for s in TIMES if not 0.75 < s < 1.05]
    bag(tmp_path, *images(drive, camera), *wheels(seconds), static(*CHAIN))
    strict = replace(config, max_gap_s=0.3)
    recording = BagFolder(extract(strict))
    left = [s for s in TIMES if not 0.75 < s < 1.05]
    assert recording.report["skipped"] == {"without odometry": len(TIMES) - len(left)}
    expected = ODOM_T_WORLD @ np.array([camera_at(s) for s in left])
    assert recording.world_T_camera == pytest.approx(expected, abs=1e-5)
    assert recording.neighbour(7, 1) is None


UNIT, NONE = (0, 0, 0, 1), (0, 0, 0, 0)


def steps(**options: object) -> list[Written]:
    """Odometry that goes straight on."""
    return [odometry((s, 0, 0), START_S + s, **options) for s in TIMES]


MISSING = (
    (
        [*wheels(TIMES)],
        r"no static transforms connect base_link with camera \(the bag holds no /tf_static\); record what is missing, "
        r"or learn the poses: --set data.known_poses=false",
    ),
    (
        [*wheels(TIMES), static(CHAIN[0], link("head", "front", MAST_T_BASE))],
        r"no static transforms connect base_link with camera \(/tf_static knows base_link, front, head, mast\)",
    ),
    ([*wheels(TIMES, frame=""), static(*CHAIN)], r"child_frame_id of /odom is ''; expected one name"),
    (
        [*wheels(TIMES[:9]), *wheels(TIMES[9:], frame="b"), static(*CHAIN)],
        r"child_frame_id of /odom is 'b' and 'base_link'; expected one",
    ),
    (
        [*wheels(TIMES), static(("base_link", "camera", (1, 0, 0), NONE))],
        r"static transform from base_link to camera is \[1.0, 0.0, 0.0\], \[0.0, 0.0, 0.0, 0.0\]; expected metres and a unit",
    ),
    (
        [*wheels(TIMES), static(("a", "camera", (1, 0, 0), UNIT), ("camera", "a", (1, 0, 0), UNIT))],
        r"static transforms of camera run in a circle",
    ),
    ([*steps(quaternion=NONE), static(*CHAIN)], r"/odom: 24 of 24 orientations are no unit quaternions"),
    ([*steps(), static(*CHAIN)], r"/odom: its orientation never changes in 24 messages, as if it were not measured"),
    ([twist_stamped(2.0, START_S + s) for s in TIMES], r"/wheels states no positions; expected nav_msgs/Odometry with poses"),
    ([], r"no odometry is read from the bag; expected nav_msgs/Odometry"),
)


@pytest.mark.filterwarnings("ignore:.*without odometry")
@pytest.mark.parametrize(("messages", "text"), MISSING)
def test_poses_that_a_bag_does_not_know_are_an_error_only_where_they_are_asked_for(
    drive, config, tmp_path, camera, capsys, messages, text
) -> None:
    bag(tmp_path, *images(drive, camera), *messages)
    with pytest.raises(InputError, match=f"bag: data.known_poses is true, but the camera's poses are not known: .*{text}"):
        open_bag(config, "train")
    learned = open_bag(replace(config, known_poses=False), "train")
    assert learned[0].recording.world_T_camera is None
    assert "known_poses" not in capsys.readouterr().err


def test_images_in_two_frames_have_no_known_poses(drive, config, tmp_path, camera) -> None:
    bag(tmp_path, *images(drive[:9], camera), *images(drive[9:], camera, frame="other"), *wheels(TIMES), static(*CHAIN))
    with pytest.raises(InputError, match=r"frame_id of /camera/image_raw is 'camera' and 'other'; expected one name"):
        open_bag(config, "train")


def test_a_bag_that_knows_the_poses_says_so_unless_they_are_used(drive, config, tmp_path, camera, capsys) -> None:
    bag(tmp_path, *images(drive, camera), *wheels(TIMES), static(*CHAIN))
    line = "the bag knows the camera's poses: --set data.known_poses=true --set method.velocity=0 learns depth from them"
    for known_poses in (False, True):
        open_bag(replace(config, known_poses=known_poses), "train")
        assert (line in capsys.readouterr().err) is not known_poses


def test_of_learned_poses_the_distance_is_the_camera_s_not_the_base_s(drive, config, tmp_path, camera) -> None:
    bag(tmp_path, *images(drive, camera), *wheels(TIMES), static(*CHAIN))
    sample = Clips(open_bag(replace(config, known_poses=False), "train"), SIZE, known_poses=False)[0]
    centres = np.array([camera_at(s)[:3, 3] for s in TIMES[:3]])
    assert [view.source_T_target for view in sample.views] == [None, None]
    assert [view.speed for view in sample.views] == pytest.approx(np.linalg.norm(np.diff(centres, axis=0), axis=1), abs=1e-5)


def test_a_frame_that_is_not_optical_is_noticed(drive, config, tmp_path, camera) -> None:
    """The images name the base, whose x axis looks ahead."""
    bag(tmp_path, *images(drive, camera, frame="base_link"), *wheels(TIMES))
    with pytest.warns(UserWarning, match=r"camera moves mostly along its x axis: .*; else the frame_id .* no optical frame"):
        open_bag(config, "train")


def test_the_last_transform_of_a_frame_counts_and_any_two_frames_of_the_tree_connect(tmp_path) -> None:
    """base > mast > camera; base > lidar. Shifts alone, which add up by hand."""
    wrong, right = (static(("mast", "camera", (x, 0, 0), UNIT)) for x in (9, 1))
    others = static(("base", "mast", (0, 0, 2), UNIT), ("base", "lidar", (5, 0, 0), UNIT), time_s=START_S + 1)
    write_bag(tmp_path / "bag", [wrong, right, others, odometry((0, 0, 0), START_S)])
    reader = BagReader(tmp_path / "bag", tmp_path)
    frames = StaticFrames(reader)
    for message in reader.messages(*frames.topics):
        frames.add(message)
    assert frames.topics == ["/tf_static"]
    assert sum(reader.unreadable.values()) == 0
    assert frames.transform("base", "camera")[:3, 3] == pytest.approx((1, 0, 2))
    assert frames.transform("camera", "base")[:3, 3] == pytest.approx((-1, 0, -2))
    assert frames.transform("lidar", "camera")[:3, 3] == pytest.approx((-4, 0, 2))


def test_the_recipe_learns_metres_from_known_poses(drive, tmp_path, camera) -> None:
    """The command that the extraction offers, one step of it: no pose network, and a metric model."""
    bag(tmp_path, *images(drive, camera), *wheels(TIMES), static(*CHAIN))
    overrides = (
        f"data.bag={tmp_path / 'bag'}", f"data.cache={tmp_path / 'cache'}", f"run.dir={tmp_path / 'run'}", "data.width=192",
        "data.height=64", "data.min_motion=0.003", "data.workers=0", "data.street_samples=2", "network.pretrained=none",
        "optim.batch_size=2", "run.max_steps=1", "data.known_poses=true", "method.velocity=0",
    )  # fmt: skip
    assert train.main([str(RECIPE), *(word for override in overrides for word in ("--set", override))]) == 0
    method = load_method(tmp_path / "run" / "best.ckpt")
    assert method.pose_net is None
    assert describe_method(method, "mine").kind == "metric"

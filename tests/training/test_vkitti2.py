"""Virtual KITTI 2: poses, stereo, exact depth, and which vehicles move."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from depth_ros.types import InputError
from training.config import DataConfig
from training.data.clips import Clips
from training.data.recording import Target
from training.data.sources import open_source
from training.data.truth import open_evaluation_set

WIDTH, HEIGHT, FX = 64, 24, 37.5
EXTRINSIC = "frame cameraID r1,1 r1,2 r1,3 t1 r2,1 r2,2 r2,3 t2 r3,1 r3,2 r3,3 t3 0 0 0 1"
BBOX = "frame cameraID trackID left right top bottom number_pixels truncation_ratio occupancy_ratio isMoving"


def camera_pose(frame: int) -> np.ndarray:
    """World_T_camera: looks along the world's x axis, and drives 2 m a frame."""
    return np.array([[0.0, 0, 1, 2 * frame], [-1, 0, 0, 5], [0, -1, 0, 1.6], [0, 0, 0, 1]])


def write_drive(folder: Path, frames: int = 3, cameras: int = 2, tint: int = 0) -> Path:
    """Depth 10 + frame m, 1 m more on the right; sky above; track 0 (left half of the lower rows) moves, track 3 is parked."""
    intrinsics, extrinsics = ["frame cameraID K[0,0] K[1,1] K[0,2] K[1,2]"], [EXTRINSIC]
    for camera in range(cameras):
        for kind in ("rgb", "depth", "instanceSegmentation"):
            (folder / "frames" / kind / f"Camera_{camera}").mkdir(parents=True)
    for frame in range(frames):
        for camera in range(2):
            aside = np.eye(4)
            aside[0, 3] = 0.532725 * camera
            matrix = np.linalg.inv(camera_pose(frame) @ aside)
            intrinsics.append(f"{frame} {camera} {FX} {FX} 31.5 11.5")
            extrinsics.append(" ".join(map(str, (frame, camera, *matrix.ravel()))))
        for camera in range(cameras):
            stem = f"Camera_{camera}/{{}}_{frame:05d}"
            image = np.full((HEIGHT, WIDTH, 3), 40 * frame + 20 * camera + tint, np.uint8)
            cv2.imwrite(str(folder / "frames" / "rgb" / f"{stem.format('rgb')}.jpg"), image)
            depth = np.full((HEIGHT, WIDTH), 1000 + 100 * frame + 100 * camera, np.uint16)
            depth[:6] = 65535
            cv2.imwrite(str(folder / "frames" / "depth" / f"{stem.format('depth')}.png"), depth)
            instances = np.zeros((HEIGHT, WIDTH), np.uint8)
            instances[12:, : WIDTH // 2], instances[12:, WIDTH // 2 :] = 1, 4
            picture = Image.fromarray(instances)
            picture.putpalette([(37 * i) % 256 for i in range(768)])
            picture.save(folder / "frames" / "instanceSegmentation" / f"{stem.format('instancegt')}.png")
    (folder / "intrinsic.txt").write_text("\n".join(intrinsics) + "\n")
    (folder / "extrinsic.txt").write_text("\n".join(extrinsics) + "\n")
    rows = [f"{frame} {camera} {track} 0 9 0 9 50 0 0.5 {track == 0 and frame > 0}" for frame in range(frames)
            for camera in range(2) for track in (0, 3)]  # fmt: skip
    (folder / "bbox.txt").write_text("\n".join([BBOX, *rows]) + "\n")
    return folder


def open_part(root: Path, part: str, **keys: object) -> list[Target]:
    return open_source(DataConfig(root=str(root), source="vkitti2", **keys), part)


def test_poses_and_stereo_take_points_where_the_files_say(tmp_path: Path) -> None:
    """A point of the world, seen by each camera through its own world-to-camera matrix."""
    write_drive(tmp_path / "Scene01" / "clone")
    targets = open_part(tmp_path / "Scene01", "train")
    recording = targets[1].recording
    point = np.array([30.0, 2.0, 3.0, 1.0])  # ahead of the cameras, somewhat left of and above them
    driven = np.array([0, 0, 2, 0])
    left = np.linalg.inv(recording.world_T_camera[1]) @ point
    assert left == pytest.approx([5 - 2, 1.6 - 3, 30 - 2, 1])
    for right in (False, True):
        sample = Clips([Target(recording, 1, right)], (WIDTH, HEIGHT), stereo=True)[0]
        aside = np.array([0.532725, 0, 0, 0])
        before, after, partner = sample.views
        seen = left - aside if right else left
        assert before.source_T_target @ seen == pytest.approx(seen + driven)
        assert after.source_T_target @ seen == pytest.approx(seen - driven)
        assert partner.source_T_target @ seen == pytest.approx(seen + aside if right else seen - aside)
        assert abs(int(sample.image[0, 0, 0]) - (60 if right else 40)) < 3
        assert abs(int(partner.image[0, 0, 0]) - (40 if right else 60)) < 3
    assert np.array_equal(sample.K, [[FX, 0, 31.5], [0, FX, 11.5], [0, 0, 1]])


def test_depth_is_in_centimetres_and_the_sky_has_none(tmp_path: Path) -> None:
    write_drive(tmp_path / "Scene01" / "clone")
    recording = open_part(tmp_path / "Scene01", "train")[0].recording
    for right in (False, True):
        depth = recording.depth(2, right)
        assert np.unique(depth[:6]).tolist() == [0]
        assert np.unique(depth[6:]).tolist() == [13.0 if right else 12.0]
    assert recording.image_name(2, right=True) == "clone/frames/rgb/Camera_1/rgb_00002.jpg"


def test_only_what_moves_is_in_the_mask(tmp_path: Path) -> None:
    folder = write_drive(tmp_path / "Scene01" / "clone")
    items = list(open_evaluation_set(tmp_path / "Scene01", source="vkitti2"))
    expected = np.zeros((HEIGHT, WIDTH), bool)
    assert np.array_equal(items[0].moving, expected)
    expected[12:, : WIDTH // 2] = True
    assert np.array_equal(items[1].moving, expected)
    (folder / "bbox.txt").unlink()
    assert next(iter(open_evaluation_set(tmp_path / "Scene01", source="vkitti2"))).moving is None


def test_scenes_and_variations_are_chosen(tmp_path: Path) -> None:
    for scene in ("Scene01", "Scene02", "Scene20"):
        for variation in ("clone", "fog", "rain"):
            write_drive(tmp_path / scene / variation, frames=2, cameras=1)

    def names(part: str, **keys: str) -> set[str]:
        return {"/".join(t.recording.image_name(t.index).split("/")[:2]) for t in open_part(tmp_path, part, **keys)}

    assert names("train") == {"Scene01/clone", "Scene20/clone"}
    assert names("val", split="fog,rain") == {"Scene02/fog", "Scene02/rain"}
    assert names("test", split="fog") == {"Scene01/fog", "Scene02/fog", "Scene20/fog"}
    with pytest.raises(InputError, match=r"Scene02/snow: no such folder; expected Virtual KITTI 2's scenes"):
        names("val", split="snow")
    assert len(open_part(tmp_path / "Scene01", "val", val_frames=(1, 2))) == 1
    recording = open_part(tmp_path, "train")[0].recording
    assert recording.baseline_m is None  # no second camera here


def test_a_missing_frame_is_a_missing_neighbour(tmp_path: Path) -> None:
    folder = write_drive(tmp_path / "Scene01" / "clone", frames=6)
    (folder / "frames" / "rgb" / "Camera_0" / "rgb_00002.jpg").unlink()
    (folder / "frames" / "depth" / "Camera_0" / "depth_00004.png").unlink()
    with pytest.warns(UserWarning, match=r"clone: 1 of 5 depth files are missing; the first is .*depth_00004.png"):
        targets = open_part(tmp_path / "Scene01", "train")
    clips = Clips(targets, (WIDTH, HEIGHT), offsets=((-1, 1),))
    assert [t.recording.image_name(t.index)[-9:-4] for t in clips.targets] == ["00004"]
    assert clips.skipped == 4
    assert len(Clips(targets, (WIDTH, HEIGHT), offsets=((2,),))) == 2  # 1 to 3 and 3 to 5; 2 is gone, so 0 has none
    dataset = targets[0].recording
    assert dataset.depth(3) is None


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("intrinsic.txt", None, r"intrinsic.txt: .*No such file.*expected frame cameraID fx fy cx cy"),
        (
            "intrinsic.txt",
            "header\n0 0 1 2\n",
            r"intrinsic.txt: found '0 0 1 2' \(2 numbers\); expected frame cameraID fx fy cx cy",
        ),
        ("intrinsic.txt", "header\n0 0 9 9 4 4\n", r"intrinsic.txt: lacks camera 0 in frame 1; expected every frame of 2"),
        ("intrinsic.txt", "header\n0 0 9 9 4 4\n1 0 8 8 4 4\n", r"intrinsic.txt: holds 2 different cameras"),
        ("extrinsic.txt", "header\n0 0 a\n", r"extrinsic.txt: found '0 0 a' .*expected frame cameraID and a world-to-camera"),
        ("bbox.txt", "header\n0 0 0 True\n", r"bbox.txt: found '0 0 0 True'; expected frame cameraID trackID left"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    folder = write_drive(tmp_path / "Scene01" / "clone", frames=2, cameras=1)
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)
    with pytest.raises(InputError, match=message):
        open_part(tmp_path / "Scene01", "train")


def test_a_folder_without_scenes_or_images_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"clone: no such folder; expected Virtual KITTI 2's scenes"):
        open_part(tmp_path, "train")
    (tmp_path / "Scene01" / "clone").mkdir(parents=True)
    with pytest.raises(InputError, match=r"Camera_0: no such folder; expected the frames of Virtual KITTI 2's left camera"):
        open_part(tmp_path, "train")

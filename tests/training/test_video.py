"""A recorded video as samples: poses with the right sign, K of the size that is trained, and one clear line for bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from depth_ros.bundle import ModelBundle
from depth_ros.calibration import save_calibration
from depth_ros.estimator import Estimator
from depth_ros.types import CameraModel, Distortion, Frame, InputError
from training.config import DataConfig
from training.data.clips import Clips
from training.data.recording import load_poses
from training.data.video import ImageFolder, load_camera, open_video

COUNT = 14  # frames of street_video


def clips(
    folder: Path, size: tuple[int, int] = (192, 64), poses: str = "poses.txt", known_poses: bool = True, **data: object
) -> Clips:
    calibration = "camera.yaml" if (folder / "camera.yaml").is_file() else "meta.json"
    config = DataConfig(root=str(folder), images="image", calibration=calibration, poses=poses, **data)
    return Clips(open_video(config, "train"), size, offsets=config.offsets, known_poses=known_poses)


@pytest.fixture
def video(street_video: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(street_video, tmp_path / "video"))


def test_targets_have_all_their_neighbours(street_video: Path) -> None:
    video = clips(street_video, offsets=((-1, 1), (-3, 2)), train_frames=(2, 12))
    assert [target.index for target in video.targets] == list(range(3, 8))  # of frames 2 to 11
    assert video.skipped == 5
    frames = [cv2.imread(str(file))[..., ::-1] for file in sorted((street_video / "image").iterdir())]
    spans = set()
    for draw in range(20):
        sample = video[1 + draw * len(video)]
        assert np.array_equal(sample.image, frames[6])
        found = [next(i for i, f in enumerate(frames) if np.array_equal(f, v.image)) for v in sample.views]
        spans.add(tuple(i - 6 for i in found))
    assert spans == {(-1, 1), (-3, 2)}


def test_frames_without_neighbours_are_for_a_student(street_video: Path) -> None:
    video = clips(street_video, offsets=((),))
    assert len(video) == COUNT
    assert video[0].views == ()


def test_the_pose_between_two_frames_points_forward(street_video: Path) -> None:
    before, after = clips(street_video)[3].views
    assert (before.order, after.order) == (-1, 1)
    driven = np.linalg.norm(np.diff(np.loadtxt(street_video / "poses.txt").reshape(-1, 3, 4)[3:6, :, 3], axis=0), axis=1)
    for view, sign, distance in ((before, 1, driven[0]), (after, -1, driven[1])):
        ahead = view.source_T_target @ [0.0, 0.0, 10.0, 1.0]
        assert ahead[2] == pytest.approx(10.0 + sign * distance, abs=0.01)
        assert view.speed == pytest.approx(distance, rel=1e-6)
    assert 0.5 < driven[0] < 1.0


def test_hidden_poses_leave_only_the_distance(street_video: Path) -> None:
    view = clips(street_video, known_poses=False)[3].views[0]
    assert view.source_T_target is None
    assert 0.5 < view.speed < 1.0
    view = clips(street_video, poses="", known_poses=False)[3].views[0]
    assert view.source_T_target is view.speed is None
    with pytest.raises(InputError, match=r"image: has no poses; expected them .*, or set data.known_poses: false to learn them"):
        clips(street_video, poses="")


def test_a_real_drive(shared_data: Path) -> None:
    """KITTI odometry 00: 0.86 m from frame 0 to 1, 0.858 m of it along the camera's axis."""
    folder = shared_data / "kitti_odom00_416x128"
    video = clips(folder, (208, 64), offsets=((1,),))
    assert len(video) == 1017
    sample = video[0]
    assert sample.image.shape == sample.views[0].image.shape == (64, 208, 3)
    ahead = sample.views[0].source_T_target @ [0.0, 0.0, 10.0, 1.0]
    assert ahead[2] == pytest.approx(10 - 0.8587, abs=0.005)
    assert sample.views[0].speed == pytest.approx(0.8604, abs=0.001)
    half = [240.970263 / 2, 0, (203.539246 + 0.5) / 2 - 0.5, 0, 244.716936 / 2, (63.052153 + 0.5) / 2 - 0.5, 0, 0, 1]
    assert sample.K.ravel().tolist() == pytest.approx(half)


def test_a_distorted_recording_is_rectified(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    picture = cv2.GaussianBlur(rng.integers(0, 256, (96, 128, 3), dtype=np.uint8), (0, 0), 3)
    (tmp_path / "image").mkdir()
    cv2.imwrite(str(tmp_path / "image" / "0.png"), picture[..., ::-1])
    coefficients, projection = (-0.28, 0.07, 0.0002, 0.0001, 0.0), (80.0, 82.0, 66.0, 45.0)
    lens = Distortion("plumb_bob", coefficients, projection=projection)
    save_calibration(CameraModel(128, 96, 90.0, 91.0, 64.0, 47.0, lens), tmp_path / "camera.yaml")
    sample = clips(tmp_path, (64, 48), poses="", offsets=((),))[0]

    K, P = (np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]]) for fx, fy, cx, cy in ((90, 91, 64, 47), projection))
    straight = cv2.undistort(picture, K, np.array(coefficients), None, P)
    halved = straight.reshape(48, 2, 64, 2, 3).mean(axis=(1, 3))
    assert np.abs(sample.image - halved).max() < 2.0
    assert np.abs(picture.astype(float) - straight).mean() > 3.0  # the lens matters
    assert sample.K.tolist() == [[40.0, 0.0, 32.75], [0.0, 41.0, 22.25], [0.0, 0.0, 1.0]]


def test_training_sees_the_picture_that_the_robot_sees(street_video: Path) -> None:
    frame = np.ascontiguousarray(cv2.imread(str(street_video / "image" / "000002.png"))[..., ::-1])
    camera = load_camera(street_video / "camera.yaml")
    video = clips(street_video, (96, 32), offsets=((),))
    bundle = ModelBundle("robot", 96, 32, 50.0, 50.0, "metric", 0.1, 80.0, 1.0, "", "")
    seen = Estimator(bundle, engine=None).resize(Frame(frame, camera, 0, "camera"))
    assert np.array_equal(video[2].image, seen.image)
    assert video[2].K.tolist() == [[seen.camera.fx, 0, seen.camera.cx], [0, seen.camera.fy, seen.camera.cy], [0, 0, 1]]


def test_a_folder_that_holds_no_video(tmp_path: Path, camera: CameraModel) -> None:
    with pytest.raises(InputError, match=r"nowhere: no such folder; expected the frames of a video"):
        ImageFolder(tmp_path / "nowhere", camera)
    with pytest.raises(InputError, match=r"holds no image; expected files named \*.jpg"):
        ImageFolder(tmp_path, camera)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"train_frames": (3, 99)},
            r"data.train_frames is \[3, 99\], and the recording holds 14 images; expected .* <= 14",
        ),
        ({"train_frames": (5, 5)}, r"data.train_frames is \[5, 5\], and the recording holds 14"),
        ({"train_frames": (3, 5)}, r"none of 2 images has its neighbours \[\[-1, 1\]\]; expected consecutive frames"),
    ],
)
def test_frames_that_the_video_does_not_have(street_video: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        clips(street_video, **changes)


def test_poses_must_be_one_per_image(video: Path) -> None:
    lines = (video / "poses.txt").read_text().splitlines()
    for text, message in (
        ("\n".join(lines[:-1]), r"holds 13 lines of 12 numbers; expected 14 \(one per image\) of 12"),
        ("\n".join(line.rsplit(" ", 4)[0] for line in lines), r"holds 14 lines of 8 numbers"),
        ("forward\n" * COUNT, r"poses.txt: .*expected 12 numbers per line"),
        ("nan " * 12 + "\n" + "\n".join(lines[1:]), r"line 1 is not finite"),
    ):
        (video / "poses.txt").write_text(text)
        with pytest.raises(InputError, match=message) as error:
            load_poses(video / "poses.txt", COUNT)
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match=r"nowhere.txt.*expected 12 numbers per line"):
        load_poses(video / "nowhere.txt", COUNT)


def test_images_must_be_readable_and_of_the_calibrated_size(video: Path) -> None:
    files = sorted((video / "image").iterdir())
    files[4].write_bytes(files[4].read_bytes()[:40])
    cv2.imwrite(str(files[9]), np.zeros((64, 100, 3), np.uint8))
    samples = clips(video)
    with pytest.raises(InputError, match=r"000004.png: cannot be read as an image"):
        samples[2]
    with pytest.raises(InputError, match=r"000009.png: is 100x64, but its calibration says 192x64; give the calibration"):
        samples[9]


@pytest.mark.parametrize(
    "text", ["", "[]", '{"K": [[1, 2], [3, 4]], "width": 4, "height": 4}', '{"width": 4, "height": 4}', '{"K": null}']
)
def test_a_json_without_a_camera(tmp_path: Path, text: str) -> None:
    (tmp_path / "meta.json").write_text(text)
    with pytest.raises(InputError, match=r"meta.json: .*expected a JSON with K \(3x3\), width and height"):
        load_camera(tmp_path / "meta.json")


def test_a_camera_without_a_focal_length(tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_text(json.dumps({"K": [[0, 0, 8], [0, 0, 8], [0, 0, 1]], "width": 16, "height": 16}))
    with pytest.raises(InputError, match=r"camera fx is 0.0; expected a positive focal length"):
        load_camera(tmp_path / "meta.json")

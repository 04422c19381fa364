"""Recordings to samples: the other camera's pose, sparse truth at the network's size, and fast decoding with an exact camera."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from depth_ros.types import CameraModel, InputError
from training.config import DataConfig
from training.data.clips import Clips, shrink_depth
from training.data.recording import Target, decode
from training.data.street import Street, kitti_camera
from training.data.video import open_folder
from training.geometry import warp

BASELINE_M = 0.54


@pytest.fixture(scope="module")
def stereo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three frames of a street seen by two cameras, as a folder with meta.json."""
    folder, camera, street = tmp_path_factory.mktemp("stereo"), kitti_camera(192, 64), Street(3)
    aside = np.eye(4)
    aside[0, 3] = BASELINE_M
    for name in ("left", "right", "depth"):
        (folder / name).mkdir()
    for index in range(3):
        t_s = 2.0 + 0.1 * index
        left = street.render(camera, street.pose(t_s), t_s)
        right = street.render(camera, street.pose(t_s) @ aside, t_s)
        depth = np.where(left.depth < 200, left.depth * 256, 0).astype(np.uint16)
        for name, picture in (("left", left.image[..., ::-1]), ("right", right.image[..., ::-1]), ("depth", depth)):
            cv2.imwrite(str(folder / name / f"{index}.png"), picture)
    np.savetxt(folder / "poses.txt", [street.pose(2.0 + 0.1 * i)[:3].ravel() for i in range(3)])
    K = camera.K.tolist()
    meta = {"K": K, "width": 192, "height": 64, "depth_scale": 256, "baseline_m": BASELINE_M}
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder


def targets(folder: Path, right: bool = False) -> list[Target]:
    left = open_folder(DataConfig(root=str(folder)), "train")
    return [Target(t.recording, t.index, right) for t in left]


@pytest.mark.parametrize("right", [False, True])
def test_true_depth_warps_every_view_onto_its_target(stereo_folder: Path, right: bool) -> None:
    """Neighbours and the other camera show the target through the true depth, and do worse through a wrong one."""
    torch = pytest.importorskip("torch")
    sample = Clips(targets(stereo_folder, right), (192, 64), stereo=True)[0]
    before, after, partner = sample.views
    assert (before.order, after.order, partner.order) == (-1, 1, 0)
    assert partner.source_T_target[0, 3] == pytest.approx(BASELINE_M if right else -BASELINE_M)
    camera, street = kitti_camera(192, 64), Street(3)
    pose = street.pose(2.1)
    if right:
        pose = pose.copy()
        pose[:3, 3] += BASELINE_M * pose[:3, 0]
    depth = torch.from_numpy(street.render(camera, pose, 2.1).depth).clamp(max=200.0)[None, None]
    K = torch.from_numpy(sample.K).float()[None]

    def image(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array.copy()).permute(2, 0, 1)[None].float()

    for view in sample.views:
        pose_tensor = torch.from_numpy(view.source_T_target).float()[None]
        errors = [
            (warp(image(view.image), factor * depth, K, K, pose_tensor) - image(sample.image)).abs().median().item()
            for factor in (0.7, 1.0, 1.5)
        ]
        assert errors[1] < min(errors[0], errors[2])


def test_a_stereo_pair_is_asked_for_where_there_is_none(stereo_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mono"
    folder.mkdir()
    (folder / "left").symlink_to(stereo_folder / "left")
    (folder / "meta.json").write_text((stereo_folder / "meta.json").read_text())
    with pytest.raises(InputError, match=r"mono: has no right camera; expected a stereo pair, or set data.stereo: false"):
        Clips(targets(folder), (192, 64), offsets=((),), stereo=True)


def test_a_right_image_that_is_missing_is_named(stereo_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pair"
    for name in ("left", "right"):
        (folder / name).mkdir(parents=True)
        for file in (stereo_folder / name).iterdir():
            (folder / name / file.name).symlink_to(file)
    (folder / "meta.json").write_text((stereo_folder / "meta.json").read_text())
    (folder / "right" / "1.png").unlink()
    with pytest.raises(InputError, match=r"right: lacks 1 of 3 images, the first 1.png"):
        targets(folder)


def test_the_true_depth_comes_with_the_sample(stereo_folder: Path) -> None:
    sample = Clips(targets(stereo_folder), (96, 32), offsets=((),), depth=True)[1]
    full = cv2.imread(str(stereo_folder / "depth" / "1.png"), cv2.IMREAD_UNCHANGED) / 256
    blocks = np.where(full > 0, full, np.inf).reshape(32, 2, 96, 2).min(axis=(1, 3))
    assert sample.depth == pytest.approx(np.where(np.isfinite(blocks), blocks, 0), rel=1e-6)


def test_the_nearest_measurement_wins_where_sparse_depth_shrinks() -> None:
    depth = np.zeros((6, 9), np.float32)
    depth[1, 2], depth[0, 0], depth[5, 8], depth[3, 4] = 7.0, 9.0, 3.0, np.nan
    camera = CameraModel(9, 6, 10.0, 12.0, 4.0, 2.5)
    assert shrink_depth(depth, camera.K, camera.resized(3, 2).K, 3, 2).tolist() == [[7.0, 0.0, 0.0], [0.0, 0.0, 3.0]]


def test_depth_follows_its_pixels_into_a_camera_that_sees_less() -> None:
    """A measurement at pixel (8, 4) of 9x6, seen by a camera that shows only the first eight columns, is gone; (4, 4) stays."""
    depth = np.zeros((6, 9), np.float32)
    depth[4, 8], depth[4, 4] = 3.0, 5.0
    camera = CameraModel(9, 6, 10.0, 12.0, 4.0, 2.5)
    half = CameraModel(8, 6, 10.0, 12.0, 4.0, 2.5).resized(4, 3)
    assert shrink_depth(depth, camera.K, half.K, 4, 3).tolist() == [[0.0] * 4, [0.0] * 4, [0.0, 0.0, 5.0, 0.0]]


def test_a_jpeg_decoded_small_shows_what_its_camera_says(tmp_path: Path) -> None:
    """A bright cross at pixel (403, 130) of 1242x375 lies where the reduced camera projects it, at every reduction."""
    camera = CameraModel(1242, 375, 721.0, 722.0, 403.0, 130.0)
    picture = np.zeros((375, 1242, 3), np.uint8)
    picture[130 - 20 : 130 + 21, 403 - 20 : 403 + 21] = 255
    file = tmp_path / "cross.jpg"
    cv2.imwrite(str(file), picture, [cv2.IMWRITE_JPEG_QUALITY, 98])
    for least, width in (((0, 0), 1242), ((700, 200), 1242), ((600, 180), 621), ((300, 90), 310), ((40, 20), 155)):
        image, reduced = decode(file, camera, least)
        assert image.shape == (reduced.height, reduced.width, 3)
        assert reduced.width == width
        light = image[..., 1].astype(float)
        u, v = (
            (light.sum(axis=0) @ np.arange(reduced.width)) / light.sum(),
            (light.sum(axis=1) @ np.arange(reduced.height)) / light.sum(),
        )
        assert (u, v) == pytest.approx((reduced.cx, reduced.cy), abs=0.05)
        assert reduced.fx == pytest.approx(721.0 * width / 1242, rel=0.002)


def test_a_reduced_image_of_another_size_than_its_camera_is_refused(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.jpg"), np.zeros((40, 64, 3), np.uint8))
    with pytest.raises(InputError, match=r"a.jpg: is 64x40, but its calibration says 64x48"):
        decode(tmp_path / "a.jpg", CameraModel(64, 48, 50.0, 50.0, 31.5, 23.5), (8, 8))

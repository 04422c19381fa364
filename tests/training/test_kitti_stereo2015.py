"""KITTI Stereo 2015 in its official layout: disparity to depth by each scene's own calibration, moving cars, missing files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from depth_ros.types import InputError
from training.config import ConfigError, DataConfig
from training.data.clips import Clips
from training.data.sources import open_source
from training.data.truth import open_evaluation_set

BASELINE_M = 0.5


def write_scene(root: Path, number: int, width: int = 64, fx: float = 50.0) -> None:
    """A pair whose disparity is 4 px at (3, 7) and, only in disp_occ, 2 px at (20, 8); (3, 7) moves."""
    folder = root / "training"
    disparities = np.zeros((32, width), np.uint16)
    disparities[3, 7] = 4 * 256
    occluded = disparities.copy()
    occluded[20, 8] = 2 * 256
    pictures = {
        "image_2": np.full((32, width, 3), number, np.uint8),
        "image_3": np.full((32, width, 3), 100 + number, np.uint8),
        "disp_noc_0": disparities,
        "disp_occ_0": occluded,
        "obj_map": (disparities > 0).astype(np.uint8) * 3,
    }
    for name, picture in pictures.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name / f"{number:06d}_10.png"), picture)
    cv2.imwrite(str(folder / "image_2" / f"{number:06d}_11.png"), pictures["image_2"])  # of the scene flow set: not a target
    (folder / "calib_cam_to_cam").mkdir(exist_ok=True)
    lines = [f"S_rect_02: {width} 32"]
    lines += [f"P_rect_0{camera}: {fx} 0 31.5 {-fx * x} 0 {fx} 15.5 0 0 0 1 0" for camera, x in ((2, 0), (3, BASELINE_M))]
    (folder / "calib_cam_to_cam" / f"{number:06d}.txt").write_text("\n".join(lines))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number in range(4):
        write_scene(tmp_path, number)
    write_scene(tmp_path, 4, width=48, fx=40.0)
    return tmp_path


def config(root: Path, **values: object) -> DataConfig:
    return DataConfig(root=str(root), source="kitti_stereo2015", **values)


def test_truth_is_focal_length_times_baseline_by_disparity_of_each_scene(root: Path) -> None:
    items = list(open_evaluation_set(root, "kitti_stereo2015"))
    assert [item.name for item in items] == [f"image_2/{n:06d}_10.png" for n in range(5)]
    assert [item.frame.camera.fx for item in items] == [50, 50, 50, 50, 40]
    assert [(item.truth[3, 7], item.truth[20, 8]) for item in items] == [(6.25, 12.5)] * 4 + [(5.0, 10.0)]
    assert np.argwhere(items[4].moving).tolist() == [[3, 7]]
    visible = [item.truth for item in open_evaluation_set(root, "kitti_stereo2015", truth="disp_noc")]
    assert [(truth[3, 7], truth[20, 8]) for truth in visible] == [(6.25, 0.0)] * 4 + [(5.0, 0.0)]


def test_pairs_train_with_their_partner_and_truth(root: Path) -> None:
    settings = config(root, train_frames=(1, 4), val_frames=(4, 5), stereo=True, depth=True)
    train, val = (
        Clips(open_source(settings, part), (64, 32), offsets=((),), stereo=True, depth=True) for part in ("train", "val")
    )
    assert (len(train), len(val)) == (3, 1)
    sample = train[0]
    assert (sample.image[0, 0, 0], sample.views[0].image[0, 0, 0]) == (1, 101)
    assert sample.views[0].source_T_target[0, 3] == pytest.approx(-BASELINE_M)
    assert (sample.depth[3, 7], np.count_nonzero(sample.depth)) == (6.25, 2)


def test_what_is_missing_is_said(root: Path) -> None:
    (root / "training" / "image_3" / "000002_10.png").unlink()
    with pytest.warns(UserWarning, match=r"1 of 5 images are left out.*000002_10.png"):
        assert len(open_source(config(root, stereo=True), "train")) == 4
    with pytest.raises(ConfigError, match=r"data.truth is 'lidar'; expected disp_occ or disp_noc"):
        open_source(config(root, truth="lidar"), "test")
    (root / "training" / "calib_cam_to_cam" / "000003.txt").unlink()
    with pytest.raises(InputError, match=r"calib_cam_to_cam/000003.txt: .*No such file"):
        open_source(config(root), "test")
    with pytest.raises(InputError, match=r"nowhere/training/image_2: holds no image <nnnnnn>_10.png"):
        open_source(config(root / "nowhere"), "test")


def test_truth_and_masks_that_do_not_fit_are_named(root: Path) -> None:
    cv2.imwrite(str(root / "training" / "obj_map" / "000000_10.png"), np.zeros((3, 4), np.uint8))
    with pytest.raises(InputError, match=r"obj_map/000000_10.png: is of shape \(3, 4\); expected 64x32 object numbers"):
        next(iter(open_evaluation_set(root, "kitti_stereo2015")))
    for file in (root / "training" / "disp_occ_0").iterdir():
        file.unlink()
    (root / "training" / "disp_occ_0").rmdir()
    with pytest.raises(InputError, match=r"none of 5 images has its truth; expected disp_occ_0/<nnnnnn>_10.png"):
        open_evaluation_set(root, "kitti_stereo2015")


def test_real_disparity_agrees_with_the_lidar(shared_data: Path, tmp_path: Path) -> None:
    """Two independent truths of the same images: the benchmark's disparity, and a lidar sweep."""
    real, folder = shared_data / "kitti2015_stereo", tmp_path / "training"
    numbers = ("000002", "000042")
    for name, source, suffix in (("image_2", "left", "jpg"), ("image_3", "right", "jpg"), ("disp_occ_0", "disp", "png")):
        (folder / name).mkdir(parents=True)
        for number in numbers:
            (folder / name / f"{number}_10.{suffix}").symlink_to(real / source / f"{number}.{suffix}")
    (folder / "calib_cam_to_cam").mkdir()
    for number in numbers:
        calibration = shared_data / "kitti_raw_mini" / "2011_09_26" / "calib_cam_to_cam.txt"
        (folder / "calib_cam_to_cam" / f"{number}.txt").symlink_to(calibration)
    items = list(open_evaluation_set(tmp_path, "kitti_stereo2015"))
    assert len(items) == 2
    for number, item in zip(numbers, items, strict=True):
        lidar = cv2.imread(str(real / "depth_lidar" / f"{number}.png"), cv2.IMREAD_UNCHANGED) / 256
        both = (lidar > 0) & (item.truth > 0)
        assert both.sum() > 5000
        assert np.median(np.abs(item.truth[both] / lidar[both] - 1)) < 0.01
        assert item.moving is None

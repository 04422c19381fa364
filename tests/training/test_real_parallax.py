"""Real stereo video as training sees it: images, K, baseline and poses together put depth where OpenCV's matcher does."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from training.batch import Batch, View, collate
from training.config import DataConfig
from training.data.clips import Clips
from training.data.sources import SOURCES
from training.geometry import warp
from training.losses import photometric_error

SIZE = (416, 128)
NAMES = ("earlier", "later", "right")


@pytest.fixture(scope="module")
def batch(shared_data: Path) -> Batch:
    config = DataConfig(source="folder", root=str(shared_data), path="kitti_odom06_stereo_grey", val_frames=(43, 51), stereo=True)
    targets = SOURCES["folder"](config, "val")
    return collate([Clips(targets, SIZE, stereo=True)[2]])


@pytest.fixture(scope="module")
def matched(shared_data: Path, batch: Batch) -> np.ndarray:
    """Depth [m] of the same left image by semi-global matching at full resolution; NaN where it finds none."""
    folder = shared_data / "kitti_odom06_stereo_grey"
    names = sorted(file.name for file in (folder / "left").iterdir())
    left, right = (cv2.imread(str(folder / side / names[43 + 3]), cv2.IMREAD_GRAYSCALE) for side in ("left", "right"))
    matcher = cv2.StereoSGBM_create(0, 128, 5, P1=200, P2=800, uniquenessRatio=5, speckleWindowSize=100, speckleRange=2)
    disparity = matcher.compute(left, right) / 16
    focal, baseline = 707.0912, 0.537151  # of its meta.json
    depth = np.where(disparity > 1, focal * baseline / np.maximum(disparity, 1), np.nan)
    return cv2.resize(depth, SIZE, interpolation=cv2.INTER_NEAREST)


def swept(batch: Batch, view: View) -> np.ndarray:
    """Depth [m] of the plane, of 60, at which a 7x7 window of the view fits best."""
    depths = 1 / torch.linspace(1 / 80, 1 / 4, 60)
    errors = []
    for depth in depths:
        plane = torch.full((1, 1, SIZE[1], SIZE[0]), float(depth))
        error = photometric_error(warp(view.image, plane, batch.K, view.K, view.source_T_target), batch.image)
        errors.append(F.avg_pool2d(error, 7, 1, 3))
    return depths[torch.cat(errors).argmin(dim=0)[0]].numpy()


@pytest.mark.parametrize("name", NAMES)
def test_a_plane_sweep_finds_the_depth_of_an_independent_matcher(batch: Batch, matched: np.ndarray, name: str) -> None:
    depth = swept(batch, batch.views[NAMES.index(name)])
    known = np.isfinite(matched) & (matched > 5) & (matched < 40)
    assert known.mean() > 0.2
    ratio = depth[known] / matched[known]
    assert np.median(ratio) == pytest.approx(1, abs=0.03)
    assert np.mean(np.abs(ratio - 1) < 0.15) > 0.5  # the rest: repeated texture, movers, what only one of them sees

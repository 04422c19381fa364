"""benchmarks/scale.py, on two images of each kind: it runs, and its rows say what the page reads off them."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from benchmarks import scale
from depth_ros import bundle
from depth_ros.engines import EngineOptions, load_engine
from depth_ros.estimator import Estimator

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def estimator():
    model = bundle.load(ROOT / "models" / "default")
    return Estimator(model, load_engine(model, "onnxruntime", EngineOptions(threads=1)))


def test_every_source_is_judged_on_images_it_was_not_given(estimator, shared_data):
    pictures = list(itertools.islice(scale.shots(estimator, shared_data / "kitti2015_stereo", "left", "depth"), 2))
    rows = {row["source"]: row for row in scale.on_images(pictures)}
    assert list(rows) == list(scale.SOURCES)
    assert rows["median scaling (needs truth)"]["off_median_scale"] == pytest.approx(0, abs=1e-6)
    for row in rows.values():
        assert row["images"] == 2
        assert row["refused"] == 2 or 0 < row["abs_rel"] < 1
    given, judging = scale.split(pictures[0].truth, 0)
    assert np.count_nonzero(given) == scale.POINTS
    assert not np.any((given > 0) & (judging > 0))
    np.testing.assert_array_equal(given + judging, pictures[0].truth)


def test_a_drive_is_measured_and_tracked(estimator, shared_data):
    folder = shared_data / "kitti_odom00_416x128"
    pictures = list(itertools.islice(scale.shots(estimator, folder, "image", None), 12))
    rows = {row["source"]: row for row in scale.on_video(pictures, folder)}
    for row in rows.values():
        assert row["frames"] == 6
        assert row["factor_median"] == pytest.approx(1, abs=0.15)  # the model is metric there
        assert 0 < row["tracked_sigma"] < 0.2

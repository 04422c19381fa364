"""The mean map and the constant against means taken by hand."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from depth_ros.metrics import depth_errors, garg_crop, valid_truth
from depth_ros.types import InputError
from training.judging.baselines import gather


def statistics(truths):
    return gather(np.asarray(truths, np.float32), valid_truth)


def test_the_mean_map_leaves_the_image_out():
    truths = np.array([[[2.0, 0.0]], [[8.0, 5.0]], [[70.0, 70.0]]])
    np.testing.assert_allclose(statistics(truths).mean_map(truths[2]), [[4.0, 5.0]], rtol=1e-6)  # sqrt(2 x 8), 5 alone
    np.testing.assert_allclose(statistics(truths).mean_map(truths[0]), [[math.sqrt(560), math.sqrt(350)]], rtol=1e-6)


def test_the_mean_map_fills_from_the_row_and_then_from_all():
    truths = np.array([[[2.0, 8.0, 0.0], [0.0, 0.0, 0.0], [16.0, 0.0, np.nan]], np.ones((3, 3))])
    everywhere = (2 * 8 * 16) ** (1 / 3)
    found = statistics(truths).mean_map(truths[1])
    np.testing.assert_allclose(found, [[2, 8, 4], [everywhere] * 3, [16, 16, 16]], rtol=1e-6)


def test_a_pooled_mean_map_shares_its_neighbours_measurements():
    truths = np.array([np.full((1, 5), 3.0), [[4.0, 0.0, 0.0, 9.0, 9.0]]])
    pooled = statistics(truths).mean_map(truths[0], pooling=0.6)  # three pixels wide
    np.testing.assert_allclose(pooled, [[4.0, 4.0, 9.0, 9.0, 9.0]], rtol=1e-6)


def test_truth_of_several_sizes_shows_the_same_view():
    found = gather([np.full((4, 6), 2.0, np.float32), np.full((8, 12), 8.0, np.float32)], valid_truth)
    assert found.images == 2
    np.testing.assert_allclose(found.mean_map(np.full((8, 12), 8.0, np.float32)), np.full((8, 12), 2.0), rtol=1e-6)
    np.testing.assert_allclose(found.mean_map(np.full((4, 6), 2.0, np.float32)), np.full((4, 6), 8.0), rtol=1e-6)


def test_the_constant_is_the_geometric_mean_of_all_that_counts():
    truths = [[[2.0, 8.0, 0.0]], [[90.0, 4.0, np.nan]]]
    assert statistics(truths).constant() == pytest.approx((2 * 8 * 4) ** (1 / 3))


def test_nothing_to_learn_from_is_refused():
    truths = np.array([np.zeros((2, 2)), np.ones((2, 2))], np.float32)
    with pytest.raises(InputError, match="no other image has truth"):
        statistics(truths).mean_map(truths[1])
    with pytest.raises(InputError, match="no truth counts by this protocol"):
        statistics(truths[:1]).constant()


def test_the_mean_map_beats_a_constant_on_real_truth(shared_data):
    files = sorted((shared_data / "kitti2015_stereo" / "depth_lidar").iterdir())[:6]
    truths = [cv2.imread(str(file), cv2.IMREAD_UNCHANGED)[:370, :1220].astype(np.float32) / 256 for file in files]
    found, crop = statistics(truths), garg_crop(370, 1220)
    for truth in truths:
        valid = valid_truth(truth) & crop
        own = np.full(truth.shape, np.exp(np.log(truth[valid]).mean()))
        error = depth_errors(found.mean_map(truth), truth, valid)["abs_rel"]
        assert error < depth_errors(own, truth, valid)["abs_rel"]

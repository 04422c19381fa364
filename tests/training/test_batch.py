"""Collating samples into batches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from training.batch import Sample, SampleView, collate, to_device

K = np.array([[50.0, 0, 8], [0, 50, 4], [0, 0, 1]])


def sample(red: int, depth: np.ndarray | None = None, views: tuple[SampleView, ...] = ()) -> Sample:
    image = np.zeros((8, 16, 3), np.uint8)
    image[2, 5] = (red, 51, 0)
    return Sample(image, K, views, depth)


def test_images_become_channels_first_in_0_to_1() -> None:
    batch = collate([sample(255), sample(102)])
    assert batch.image.shape == (2, 3, 8, 16)
    assert batch.image[:, :, 2, 5].tolist() == [pytest.approx([1.0, 0.2, 0.0]), pytest.approx([0.4, 0.2, 0.0])]
    assert torch.equal(batch.input, batch.image)
    assert torch.equal(batch.K[1], torch.from_numpy(K).float())
    assert batch.depth is batch.valid is None


def test_unknown_depth_is_not_valid_and_never_a_number_that_breaks_a_logarithm() -> None:
    depth = np.full((8, 16), 7.0, np.float32)
    depth[0, :4] = [0.0, np.inf, np.nan, -1.0]
    batch = collate([sample(1, depth)])
    assert batch.valid.sum() == 8 * 16 - 4
    assert not batch.valid[0, 0, 0, :4].any()
    assert torch.isfinite(torch.log(batch.depth)).all()
    assert batch.depth[0, 0, 1, 1] == 7.0


def test_a_pose_or_distance_is_known_only_if_all_samples_have_it() -> None:
    image, pose = np.zeros((8, 16, 3), np.uint8), np.eye(4)
    pose[2, 3] = -0.9
    known = sample(1, views=(SampleView(image, pose, 0.9),))
    view = collate([known, known]).views[0]
    assert view.source_T_target[:, 2, 3].tolist() == pytest.approx([-0.9, -0.9])
    assert view.speed.tolist() == pytest.approx([0.9, 0.9])
    partly = collate([known, sample(1, views=(SampleView(image),))]).views[0]
    assert partly.source_T_target is partly.speed is None


def test_samples_of_one_batch_are_alike() -> None:
    with pytest.raises(ValueError, match="mix whole batches, not samples"):
        collate([sample(1), sample(1, np.ones((8, 16), np.float32))])


def test_moving_a_batch_moves_all_of_it() -> None:
    image = np.zeros((8, 16, 3), np.uint8)
    batch = collate([sample(1, np.ones((8, 16), np.float32), (SampleView(image, np.eye(4), 1.0),))])
    moved = to_device(batch, torch.device("meta"))
    tensors = [moved.image, moved.input, moved.K, moved.depth, moved.valid]
    tensors += [getattr(moved.views[0], name) for name in ("image", "input", "K", "source_T_target", "speed")]
    assert {t.device.type for t in tensors} == {"meta"}
    assert replace(moved, views=()).image.shape == batch.image.shape

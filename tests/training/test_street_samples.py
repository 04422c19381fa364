"""Streets as training samples: views that the poses explain, truth within range, and the same seed the same sample."""

from __future__ import annotations

import numpy as np
import pytest

from depth_ros.types import CameraModel
from training.config import ConfigError
from training.data.street import Street, StreetConfig
from training.data.street.samples import StreetSamples


def test_views_are_where_they_are_said_to_be(camera: CameraModel) -> None:
    """10 Hz at 6.5 to 9.5 m/s: a point 10 m ahead is nearer after, farther before; 0.54 m to the left of the right camera."""
    samples = StreetSamples(camera, 2, views=("before", "after", "right"), seed=3)
    before, after, right = samples[0].views
    for view, sign in ((before, 1), (after, -1)):
        assert 0.5 < view.speed < 1.1
        assert (view.source_T_target @ [0, 0, 10, 1])[2] == pytest.approx(10 + sign * view.speed, abs=0.02)
    expected = np.eye(4)
    expected[0, 3] = -0.54
    assert right.source_T_target == pytest.approx(expected, abs=1e-9)


def test_truth_is_everywhere_and_the_sky_is_at_its_end(camera: CameraModel) -> None:
    sample = StreetSamples(camera, 1, seed=3)[0]
    assert sample.depth.dtype == np.float32
    assert sample.depth.shape == sample.image.shape[:2] == (64, 192)
    assert sample.depth.min() > 0
    assert sample.depth.max() == 100.0
    assert np.mean(sample.depth[:8] == 100) > np.mean(sample.depth == 100) > 0  # the sky is above


def test_a_seed_is_a_set_of_streets(camera: CameraModel) -> None:
    first, same, other = (StreetSamples(camera, 5, seed=seed) for seed in (8, 8, 108))
    assert len(first) == 5
    assert all(np.array_equal(first[i].image, same[i].image) for i in range(5))
    pictures = [*(first[i].image for i in range(5)), other[0].image]
    assert all(not np.array_equal(a, b) for i, a in enumerate(pictures) for b in pictures[:i])
    assert np.array_equal(first[4].image, StreetSamples(camera, 1, seed=9)[0].image)  # four moments of a street


def test_unknown_views_are_named(camera: CameraModel) -> None:
    with pytest.raises(ConfigError, match=r"data.street_views holds above, behind; expected some of before, after, right, left"):
        StreetSamples(camera, 1, views=("behind", "after", "above"))


def test_hidden_poses_leave_the_distance_and_the_stereo_pair(camera: CameraModel) -> None:
    shown = StreetSamples(camera, 1, views=("before", "after", "right"), seed=3)[0].views
    hidden = StreetSamples(camera, 1, views=("before", "after", "right"), seed=3, known_poses=False)[0].views
    assert [view.order for view in hidden] == [-1, 1, 0]
    assert [view.source_T_target is None for view in hidden] == [True, True, False]
    assert [view.speed for view in hidden] == [view.speed for view in shown]


def test_the_left_camera_stands_where_the_right_one_mirrors_it(camera: CameraModel) -> None:
    """Seen from the right camera of a pair, the target is the left one, 0.54 m away on streets and 0.12 m in rooms."""
    for scene, baseline in (("street", 0.54), ("room", 0.12)):
        left, right = StreetSamples(camera, 1, views=("left", "right"), seed=3, scenes=[(scene, 1.0)])[0].views
        assert left.source_T_target[:3, 3] == pytest.approx([baseline, 0, 0], abs=1e-9)
        assert right.source_T_target[:3, 3] == pytest.approx([-baseline, 0, 0], abs=1e-9)
        assert [left.order, right.order] == [0, 0]


def test_scenes_come_by_their_shares(camera: CameraModel) -> None:
    samples = StreetSamples(camera, 4, seed=0, scenes=[("street", 2.0), ("room", 1.0), ("ground", 1.0)])
    kinds = [samples.kind(seed) for seed in range(400)]
    assert [kinds.count(name) / 400 for name in ("street", "room", "ground")] == pytest.approx([0.5, 0.25, 0.25], abs=0.07)
    assert kinds == [samples.kind(seed) for seed in range(400)]
    assert {samples.kind(seed) for seed in range(50)} == {"street", "room", "ground"}


def test_streets_alone_are_the_default_and_a_configuration_is_kept(camera: CameraModel) -> None:
    config = StreetConfig(textures="test", noise=0.0)
    world = Street(7, config)
    expected = world.render(camera, world.pose(1.0), 1.0)
    assert np.array_equal(StreetSamples(camera, 1, seed=7, config=config)[0].image, expected.image)
    plain, named = StreetSamples(camera, 1, seed=7), StreetSamples(camera, 1, seed=7, scenes=[("street", 1.0)])
    assert np.array_equal(plain[0].image, named[0].image)


@pytest.mark.parametrize("scenes", [[("lake", 1.0)], [("street", -1.0)], [("street", 0.0)]])
def test_scenes_that_make_no_sense_are_refused(camera: CameraModel, scenes: list[tuple[str, float]]) -> None:
    with pytest.raises(ConfigError, match=r"data\.street_scenes holds"):
        StreetSamples(camera, 1, scenes=scenes)

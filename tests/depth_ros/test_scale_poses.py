"""Poses: conventions by hand, interpolation, and the tree of fixed frames."""

from __future__ import annotations

import numpy as np
import pytest

from depth_ros.scale.poses import OPTICAL_T_BODY, PoseHistory, StaticTree, pose_from_quaternion, pose_from_text
from depth_ros.types import InputError

SECOND = 10**9
LEVEL = (0.0, 0.0, 0.0, 1.0)


def turned(yaw):
    return (0.0, 0.0, np.sin(yaw / 2), np.cos(yaw / 2))


def test_body_to_optical():
    """x forward, y left, z up becomes z forward, -x, -y (REP 103)."""
    np.testing.assert_array_equal(OPTICAL_T_BODY @ [1, 2, 3, 1], [-2, -3, 1, 1])


def test_roll_pitch_yaw_are_about_fixed_axes():
    """A sensor that is pitched down by 90 degrees looks down; yawed by 90 degrees, to the left; rolled, its left goes up."""
    half = np.pi / 2
    for text, axis, seen in (
        (f"0 0 0 0 {half} 0", [1, 0, 0], [0, 0, -1]),
        (f"0 0 0 0 0 {half}", [1, 0, 0], [0, 1, 0]),
        (f"0, 0, 0, {half}, 0, 0", [0, 1, 0], [0, 0, 1]),
        (f"0 0 0 {half} 0 {half}", [0, 1, 0], [0, 0, 1]),  # roll first, then yaw about the fixed z, which leaves up alone
    ):
        np.testing.assert_allclose(pose_from_text(text)[:3, :3] @ axis, seen, atol=1e-12)
    np.testing.assert_array_equal(pose_from_text("1 2 3 0 0 0")[:3, 3], [1, 2, 3])


@pytest.mark.parametrize("text", ["1 2 3", "0 0 0 0 0 left", "0 0 0 0 0 nan"])
def test_a_pose_that_is_none_is_refused(text):
    with pytest.raises(InputError, match=r"scale\.sensor_pose is .* expected six numbers"):
        pose_from_text(text)


def test_quaternion_is_the_same_rotation():
    np.testing.assert_allclose(pose_from_quaternion([0, 0, 0], turned(0.3)), pose_from_text("0 0 0 0 0 0.3"), atol=1e-12)
    scaled = pose_from_quaternion([0, 0, 0], [5 * part for part in turned(0.3)])
    np.testing.assert_allclose(scaled, pose_from_text("0 0 0 0 0 0.3"), atol=1e-12)
    with pytest.raises(InputError, match="expected finite metres and a quaternion"):
        pose_from_quaternion([0, 0, 0], [0, 0, 0, 0])


def test_history_interpolates_and_knows_its_ends():
    history = PoseHistory()
    assert history.at(0) is None
    for k in range(5):
        history.add(k * SECOND // 5, [k, 0, 0], turned(0.1 * k))
    middle = history.at(SECOND // 10)
    np.testing.assert_allclose(middle, pose_from_text("0.5 0 0 0 0 0.05"), atol=1e-4)
    np.testing.assert_allclose(history.at(4 * SECOND // 5), pose_from_text("4 0 0 0 0 0.4"), atol=1e-9)
    ahead = history.at(4 * SECOND // 5 + SECOND // 20)
    assert ahead[0, 3] == pytest.approx(4.25)
    assert history.at(SECOND) is None  # too far ahead
    assert history.at(-1) is None


def test_history_does_not_bridge_a_gap():
    history = PoseHistory()
    for stamp_s in (0.0, 0.1, 3.0, 3.1):
        history.add(int(stamp_s * SECOND), [stamp_s, 0, 0], LEVEL)
    assert history.at(SECOND // 20) is not None
    assert history.at(2 * SECOND) is None
    assert history.at(int(3.05 * SECOND)) is not None


def test_a_quaternion_and_its_negative_are_the_same_rotation():
    history = PoseHistory()
    history.add(0, [0, 0, 0], turned(0.2))
    history.add(SECOND // 5, [0, 0, 0], [-part for part in turned(0.3)])
    np.testing.assert_allclose(history.at(SECOND // 10), pose_from_text("0 0 0 0 0 0.25"), atol=1e-4)


def test_overtaken_poses_are_left_out_and_a_clock_set_back_begins_anew():
    history = PoseHistory()
    for stamp_s in (10.0, 10.1, 10.2):
        history.add(int(stamp_s * SECOND), [stamp_s, 0, 0], LEVEL)
    history.add(int(10.15 * SECOND), [99, 0, 0], LEVEL)
    assert history.at(int(10.15 * SECOND))[0, 3] == pytest.approx(10.15)
    for stamp_s in (1.0, 1.1):
        history.add(int(stamp_s * SECOND), [stamp_s, 0, 0], LEVEL)
    assert history.at(int(10.15 * SECOND)) is None
    assert history.at(int(1.05 * SECOND))[0, 3] == pytest.approx(1.05)


def test_a_tree_of_fixed_frames_multiplies_the_way():
    rng = np.random.default_rng(0)
    pose = {name: pose_from_text(" ".join(map(str, rng.uniform(-1, 1, 6)))) for name in ("mast", "laser", "camera", "optical")}
    tree = StaticTree()
    for parent, child in (("base", "mast"), ("mast", "laser"), ("base", "camera"), ("camera", "optical")):
        tree.add(parent, child, pose[child])
    point_in_laser = np.array([1.0, 2, 3, 1])
    point_in_base = pose["mast"] @ pose["laser"] @ point_in_laser
    point_in_optical = np.linalg.inv(pose["camera"] @ pose["optical"]) @ point_in_base
    np.testing.assert_allclose(tree.between("optical", "laser") @ point_in_laser, point_in_optical)
    np.testing.assert_allclose(tree.between("laser", "laser"), np.eye(4), atol=1e-12)
    assert tree.between("optical", "elsewhere") is None
    np.testing.assert_array_equal(tree.between("elsewhere", "elsewhere"), np.eye(4))


def test_a_loop_is_no_tree():
    tree = StaticTree()
    tree.add("a", "b", np.eye(4))
    tree.add("b", "a", np.eye(4))
    with pytest.raises(InputError, match="loop through frame"):
        tree.between("a", "c")

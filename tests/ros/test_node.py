"""What the node publishes: values, conventions, encodings, newest frame first."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

import cv2
import onnx
from harness import NODE, OUTPUTS, cloud_array, depth_array, image_message, info_message, stamp, wait_until, wall
from rclpy.qos import DurabilityPolicy, QoSProfile

from depth_ros import bundle


@pytest.fixture
def node(start, make_bundle):
    return start(NODE, model=make_bundle().path, report_period_s=0.5).wait_ready()


def test_wall_at_5_m_is_published_at_5_m(node, client):
    client.listen(*OUTPUTS)
    answers = client.ask(wall(), info_message(), *OUTPUTS)
    for message in answers:
        assert stamp(message) == stamp(answers[0])
        assert message.header.frame_id == "test_optical_frame"
    depth, sigma, info, color, cloud = answers
    np.testing.assert_allclose(depth_array(depth), np.full((64, 128), 5.0), rtol=1e-6)
    np.testing.assert_allclose(depth_array(sigma), np.full((64, 128), 0.2), rtol=1e-6)
    assert (info.width, info.height) == (128, 64)
    np.testing.assert_allclose(info.k, [100, 0, 60, 0, 100, 30, 0, 0, 1])
    np.testing.assert_allclose(info.p, [100, 0, 60, 0, 0, 100, 30, 0, 0, 0, 1, 0])
    assert not np.any(info.d)
    assert (color.encoding, color.width, color.height, color.step) == ("bgr8", 128, 64, 384)

    assert [field.name for field in cloud.fields] == ["x", "y", "z", "rgb", "sigma"]
    assert (cloud.point_step, cloud.is_dense) == (20, False)
    points = cloud_array(cloud)
    assert points.shape == (32, 64)  # the network's resolution
    # Every second pixel border: the network's pixel u covers pixels 2u and 2u + 1, whose middle is 2u + 0.5.
    v, u = np.mgrid[:32, :64]
    np.testing.assert_allclose(points["z"], np.full((32, 64), 5.0), rtol=1e-6)
    np.testing.assert_allclose(points["x"], (2 * u + 0.5 - 60) / 100 * 5, atol=1e-5)
    np.testing.assert_allclose(points["y"], (2 * v + 0.5 - 30) / 100 * 5, atol=1e-5)
    np.testing.assert_allclose(points["sigma"], np.full((32, 64), 0.2), rtol=1e-6)
    rgb = np.ascontiguousarray(points["rgb"]).view(np.uint32)
    assert np.unique(rgb).tolist() == [(50 << 16) | (20 << 8) | 200]


def test_exported_systems_publish_what_torch_sees(start, client, system):
    """Through a camera of the model's own size and focal length."""
    start(NODE, model=system.bundle.path).wait_ready()
    client.listen("depth/image_rect", "depth/uncertainty")
    info = info_message(96, 64, 60.0, 47.5, 31.5)
    depth, sigma = client.ask(image_message(system.image[0], "rgb8"), info, "depth/image_rect", "depth/uncertainty")
    np.testing.assert_allclose(depth_array(depth), system.depth[0], rtol=1e-3)
    np.testing.assert_allclose(depth_array(sigma), system.sigma[0], rtol=1e-3)


def test_invalid_is_nan_and_beyond_range_is_inf(node, client):
    """REP 117: the probe's red 0 is no depth, and 255 (25.5 m) is beyond the bundle's 25 m."""
    pixels = np.full((32, 64, 3), (50, 20, 0), np.uint8)
    pixels[:, :20, 0] = 0
    pixels[:, 40:, 0] = 255
    client.listen("depth/image_rect", "depth/uncertainty", "points")
    answers = client.ask(
        image_message(pixels, "rgb8"), info_message(64, 32, 50.0, 32.0, 16.0), "depth/image_rect", "depth/uncertainty", "points"
    )
    depth, sigma, points = depth_array(answers[0]), depth_array(answers[1]), cloud_array(answers[2])
    assert np.isnan(depth[:, :20]).all()
    np.testing.assert_allclose(depth[:, 20:40], 5.0, rtol=1e-6)
    assert np.isposinf(depth[:, 40:]).all()
    assert np.isnan(sigma[:, :20]).all()
    assert np.isnan(sigma[:, 40:]).all()
    for name in ("x", "y", "z"):
        assert np.isnan(points[name][:, :20]).all()
        assert np.isnan(points[name][:, 40:]).all()
    np.testing.assert_allclose(points["z"][:, 22:38], 5.0, rtol=1e-6)


@pytest.mark.parametrize(("focal", "metres"), [(100.0, 5.0), (200.0, 10.0)])
def test_depth_follows_focal_length(node, client, focal, metres):
    client.listen("depth/image_rect")
    (depth,) = client.ask(wall(), info_message(f=focal), "depth/image_rect")
    np.testing.assert_allclose(depth_array(depth), metres, rtol=1e-6)


def test_encodings(node, client):
    """The same wall in several encodings: with row padding, with alpha, 16 bits big-endian, mosaic."""
    color = np.full((64, 128, 3), (50, 20, 200), np.uint8)
    grey = np.full((64, 128), 50, np.uint8)
    mosaic = np.full((64, 128), 20, np.uint8)
    mosaic[::2, ::2], mosaic[1::2, 1::2] = 50, 200
    messages = {
        "bgr8": (image_message(color[..., ::-1], "bgr8", padding=40), 0.2),
        "rgba8": (image_message(np.dstack([color, grey]), "rgba8"), 0.2),
        "mono8": (image_message(grey, "mono8", padding=3), 0.5),
        "mono16": (image_message((grey.astype(np.uint16) << 8).astype(">u2"), "mono16", is_bigendian=True), 0.5),
        "bayer_rggb8": (image_message(mosaic, "bayer_rggb8"), 0.2),
    }
    client.listen("depth/image_rect", "depth/uncertainty")
    for encoding, (message, expected_sigma) in messages.items():
        depth, sigma = client.ask(message, info_message(), "depth/image_rect", "depth/uncertainty")
        np.testing.assert_allclose(depth_array(depth), 5.0, rtol=1e-6, err_msg=encoding)
        np.testing.assert_allclose(depth_array(sigma), expected_sigma, rtol=1e-6, err_msg=encoding)


def test_newest_image_wins_and_drops_are_counted(start, client, make_bundle):
    """A network much larger than its images, so that images come faster than answers."""
    node = start(NODE, model=make_bundle(1280, 960, 1000.0, 1000.0).path, report_period_s=0.5).wait_ready()
    client.listen("depth/image_rect", "points", qos=200)
    image, info = wall(320, 240), info_message(320, 240, 250.0, 160.0, 120.0)
    client.ask(image, info, "depth/image_rect")
    client.sent.clear()
    client.received.clear()
    for _ in range(60):  # as fast as this process can
        last = client.send(image, None)
    client.spin_until(lambda: last in client.received["depth/image_rect"], "answer to the last image")
    answered = list(client.received["depth/image_rect"])
    assert answered == sorted(answered)
    assert len(answered) < 60

    def dropped() -> int:  # of the reports so far: the images may come within one period of them, or in several
        return sum(int(number) for number in re.findall(r"(\d+) dropped", node.log()))

    wait_until(dropped, lambda: f"dropped images in the log:\n{node.log()}")
    assert dropped() <= 60 - len(answered)


def test_nothing_is_computed_without_subscribers(node, client):
    client.spin_until(client.images.get_subscription_count, "node subscribed")
    client.send_until(lambda: "images/s in, 0.0 answered/s" in node.log(), wall(), info_message(), "report of idle images")
    client.listen("depth/image_rect")
    client.ask(wall(), info_message(), "depth/image_rect")
    assert not node.lines("ERROR")


def test_nothing_is_published_before_camera_info(node, client):
    client.listen(*OUTPUTS)
    client.spin_until(lambda: client.node.count_publishers("points") and client.images.get_subscription_count(), "discovery")
    client.send_until(lambda: len(node.lines("WARN")) >= 4, wall(), None, "warnings")
    warnings = [line for line in node.lines("WARN") if "no camera_info on /camera_info yet" in line]
    seconds = [float(re.search(r"\[(\d+\.\d+)\]", line)[1]) for line in warnings]
    assert len(seconds) >= 2
    assert min(np.diff(seconds)) > 0.9  # once a second
    assert not any(client.received.values())
    client.ask(wall(), info_message(), "depth/image_rect")


def test_distorted_camera_is_rectified(start, client, make_bundle, shared_data):
    """EuRoC: raw grey images with radial-tangential distortion, against OpenCV's undistort."""
    folder = shared_data / "euroc_v1_micro"
    meta = json.loads((folder / "meta.json").read_text())
    K, D = np.array(meta["K"], np.float64), np.array(meta["distortion_radtan"])
    fx, fy, cx, cy = (float(K[at]) for at in ((0, 0), (1, 1), (0, 2), (1, 2)))
    raw = cv2.imread(str(sorted((folder / "cam0").iterdir())[0]), cv2.IMREAD_GRAYSCALE)
    height, width = raw.shape
    info = info_message(width, height)
    info.k, info.d = K.ravel().tolist(), [*D.tolist(), 0.0]
    info.p = [fx, 0.0, cx, 0.0, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0]
    bundle = make_bundle(width, height, fx, fy, max_depth=30.0)
    start(NODE, model=bundle.path).wait_ready()
    client.listen("depth/image_rect", "depth/camera_info")
    depth, rectified = client.ask(image_message(raw, "mono8"), info, "depth/image_rect", "depth/camera_info")
    assert not np.any(rectified.d)
    np.testing.assert_allclose(rectified.k, K.ravel())
    np.testing.assert_allclose(rectified.p, info.p)
    seen = np.nan_to_num(depth_array(depth)) * 10  # grey values as the network got them
    inner = (slice(40, -40), slice(40, -40))
    error = np.abs(seen - cv2.undistort(raw, K, D))[inner].mean()
    assert error < 1.0  # fixed-point maps, and grey below 1 is "no depth"
    assert error < 0.2 * np.abs(seen - raw)[inner].mean()


def test_what_the_lens_did_not_see_has_no_depth(start, client, make_bundle):
    """A P of half the focal length: the rectified image shows the raw one at half its size, and black around it."""
    model = make_bundle(max_depth=1000.0)
    graph = onnx.load(model.graph_path)
    for node in graph.graph.node:
        node.op_type = node.op_type.replace("Div", "Add")  # depth = red + 10, sigma = green + 100: an answer on black, too
    onnx.save(graph, model.graph_path)
    bundle.save(model, model.path)
    info = info_message()
    info.d, info.p = [], [50.0, 0.0, 60.0, 0.0, 0.0, 50.0, 30.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    start(NODE, model=model.path, max_relative_sigma=0, max_edge_step=0).wait_ready()
    topics = ("depth/image_rect", "depth/uncertainty", "points")
    client.listen(*topics)
    depth, sigma, points = client.ask(wall(), info, *topics)
    # Raw pixel 2 u - 60 lies in an image of 128 pixels for u = 30 ... 93, 2 v - 30 in one of 64 for v = 15 ... 46.
    expected = np.zeros((64, 128), bool)
    expected[15:47, 30:94] = True
    np.testing.assert_array_equal(np.isfinite(depth_array(depth)), expected)
    np.testing.assert_array_equal(np.isfinite(depth_array(sigma)), expected)
    assert not np.isinf(depth_array(depth)).any()
    np.testing.assert_array_equal(np.isfinite(cloud_array(points)["z"]), expected[1::2, 1::2])  # the network's 64x32


def test_rectified_image_with_distortion_in_its_camera_info(start, client, make_bundle):
    """image_rect topics carry the raw camera's K and D: with image_is_rectified, P alone counts."""
    info = info_message()
    info.d, info.k = [-0.3, 0.1, 0.0, 0.0, 0.0], [90.0, 0.0, 50.0, 0.0, 90.0, 40.0, 0.0, 0.0, 1.0]
    start(NODE, model=make_bundle().path, image_is_rectified=True).wait_ready()
    client.listen("depth/image_rect", "depth/camera_info")
    depth, published = client.ask(wall(), info, "depth/image_rect", "depth/camera_info")
    np.testing.assert_allclose(published.k, [100, 0, 60, 0, 100, 30, 0, 0, 1])
    np.testing.assert_allclose(depth_array(depth), 5.0, rtol=1e-6)


def test_incompatible_qos_is_reported(node, client):
    client.listen("points", qos=QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL))
    node.wait_log("incompatible QoS")
    assert "'/points'" in next(line for line in node.lines("WARN") if "incompatible QoS" in line)


def test_qos_can_be_overridden(start, client, make_bundle):
    topics = ("/points", "/diagnostics")
    override = {f"qos_overrides.{topic}.publisher.reliability": "best_effort" for topic in topics}
    start(NODE, model=make_bundle().path, **override).wait_ready()
    client.spin_until(lambda: client.node.count_publishers("points"), "points advertised")
    (points,) = client.node.get_publishers_info_by_topic("/points")
    (depth,) = client.node.get_publishers_info_by_topic("/depth/image_rect")
    (diagnostics,) = client.node.get_publishers_info_by_topic("/diagnostics")
    assert points.qos_profile.reliability.name == diagnostics.qos_profile.reliability.name == "BEST_EFFORT"
    assert depth.qos_profile.reliability.name == "RELIABLE"


def test_a_camera_without_the_dds_profile_is_heard(start, client, make_bundle):
    """The launch file sets the profile for the node only; camera drivers and viewers run without it."""
    start(NODE, env={"FASTRTPS_DEFAULT_PROFILES_FILE": ""}, model=make_bundle().path).wait_ready()
    client.listen("depth/image_rect", "points")
    depth, _ = client.ask(wall(), info_message(), "depth/image_rect", "points")
    np.testing.assert_allclose(depth_array(depth), 5.0, rtol=1e-6)

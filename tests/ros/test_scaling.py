"""Metres from a range sensor, odometry or the camera's height, for bundles that have none of their own."""

from __future__ import annotations

import math
import re
import sys
import time
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from builtin_interfaces.msg import Time
from corridor import make_texture, moved, shot
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import TransformStamped
from harness import NODE, Client, depth_array, image_message, info_message, stamp, wait_until, wall
from nav_msgs.msg import Odometry
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image, LaserScan, PointCloud2, PointField, Range

from depth_ros.ros import range_messages
from depth_ros.ros.extrinsics import Extrinsics
from depth_ros.ros.params import ScaleParams
from depth_ros.ros.scaling import Scaling
from depth_ros.ros.sensor_topics import NodeTopics
from depth_ros.scale.poses import OPTICAL_T_BODY, pose_from_text
from depth_ros.types import DepthPrediction, InputError

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
INTERFACES = (Path(__file__).resolve().parents[2] / "docs" / "interfaces.md").read_text(encoding="utf-8")
AT_CAMERA = "0 0 0 0 0 0"  # the sensor sits in the camera
SCALE = 2.0  # metres to the probe's unit (depth = red / 10), unless the test says otherwise


def corridor_colours():
    """Red (128,) of a scene that is as deep in every row: 3 to 11 units over the columns; pairs of columns are alike."""
    return np.repeat(np.round(70 + 40 * np.sin(np.arange(64) / 7)), 2).astype(np.uint8)


def scene(sigma=0.3):
    """The scene as the probe sees it, with a sigma [unit]."""
    pixels = np.zeros((64, 128, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = corridor_colours(), round(sigma * 100)
    return image_message(pixels, "rgb8")


def true_depth(columns, to_metres=lambda unit: SCALE * unit):
    return to_metres(corridor_colours()[columns] / 10)


def scan(outliers=0.0, to_metres=lambda unit: SCALE * unit):
    """A laser in the camera: 60 beams over the view, about one to a pixel, of which a share sees dust 0.4 m away."""
    message = LaserScan(angle_min=-0.6, angle_max=0.5, angle_increment=1.1 / 59, range_min=0.1, range_max=60.0)
    message.header.frame_id = "laser"
    angles = message.angle_min + message.angle_increment * np.arange(60)
    columns = np.round(60 - 100 * np.tan(angles)).astype(int)  # to the left is to the left in the image
    inside = (columns >= 0) & (columns < 128)
    ranges = np.full(60, np.inf)
    ranges[inside] = true_depth(columns[inside], to_metres) / np.cos(angles[inside])
    dust = np.random.default_rng(0).permutation(60)[: round(outliers * 60)]
    ranges[dust] = 0.4
    message.ranges = ranges.tolist()
    return message


class Sensor:
    """Publishes a message with the present stamp, 20 times a second."""

    def __init__(self, client, topic, message):
        self._node, self.message = client.node, message
        self._publisher = client.node.create_publisher(type(message), topic, 10)
        self._timer = client.node.create_timer(0.05, self.publish)

    def publish(self):
        self.message.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(self.message)

    def stop(self):
        self._timer.cancel()

    def go_on(self):
        self._timer.reset()


def state(states, level, text, since=0):
    """What /diagnostics says of the scale, once it says that."""
    return {item.key: item.value for item in states.wait("mono_depth: scale", level, text, since).values}


def start_scaled(start, bundle, source, cameras=None, **scale):
    parameters = {"camera_names": cameras} if cameras else {}
    parameters |= {"scale.source": source, "scale.sensor_pose": AT_CAMERA} | {f"scale.{k}": v for k, v in scale.items()}
    return start(NODE, model=bundle.path, **parameters).wait_ready()


@pytest.mark.parametrize("outliers", [0.0, 0.4])
def test_a_scan_makes_metres_of_a_relative_bundle(start, client, states, make_bundle, outliers):
    start_scaled(start, make_bundle(kind="scale_invariant"), "range")
    Sensor(client, "range/scan", scan(outliers))
    client.listen("depth/image_rect", "depth/uncertainty", "points")
    topics = ("depth/image_rect", "depth/uncertainty", "points")
    depth, sigma, _ = client.ask(scene(), info_message(), *topics)
    truth = np.broadcast_to(true_depth(np.arange(128)), (64, 128))
    depth, sigma = depth_array(depth), depth_array(sigma)
    error = np.abs(depth - truth)
    assert np.median(error / truth) < 0.02
    assert (error < sigma + 0.02 * truth).mean() > 0.95  # and what up-sampling does at the steps between pixels
    # 0.3 units are 0.6 m; the scale's own share comes on top.
    assert (sigma > 0.55).all()
    said = state(states, OK, "range: factor")
    assert float(said["factor"]) == pytest.approx(SCALE, rel=0.02)
    relative = float(said["relative sigma"])
    assert 0.001 < relative < 0.05
    assert int(said["inliers"]) <= (1 - outliers) * 60
    assert [key for key in said if f"`{key}`" not in INTERFACES] == []


def test_a_scan_that_dies_makes_depth_less_sure_and_then_ends_it(start, client, states, make_bundle):
    process = start_scaled(start, make_bundle(kind="scale_invariant"), "range", timeout_s=4.0, drift=0.2)
    sensor = Sensor(client, "range/scan", scan())
    client.listen("depth/image_rect", "depth/uncertainty")
    client.ask(scene(), info_message(), "depth/image_rect")
    sensor.stop()
    died_ns = client.node.get_clock().now().nanoseconds
    image, info = scene(), info_message()
    client.send_until(lambda: "no range within 0.2 s of the image" in process.log(), image, info, "images refused")
    assert "no scale from range, so no metres" in process.lines("ERROR")[-1]
    received = client.received["depth/uncertainty"]
    after = sorted((stamp_ns, depth_array(message)[0, 0]) for stamp_ns, message in received.items() if stamp_ns > died_ns)
    assert len(after) > 3
    assert all(later[1] >= earlier[1] for earlier, later in pairwise(after))
    # From a scale without error on: sigma^2 = (2 x 0.3)^2 + (0.2 depth)^2 age; the age at the last one is at most the time-out's.
    assert after[-1][1] > 1.2 * after[0][1]
    assert max(stamp_ns for stamp_ns, _ in after) < died_ns + 4.3e9
    said = state(states, ERROR, "no scale any more, images are refused")
    assert "no range within" in said["last try"]
    count, seen = len(client.received["depth/image_rect"]), len(states.seen)
    sensor.go_on()
    client.send_until(lambda: len(client.received["depth/image_rect"]) > count, image, info, "answers again")
    state(states, OK, "range: factor", seen)


def test_a_relative_bundle_waits_for_its_scale_and_says_what_to_remap(start, client, states, make_bundle):
    process = start_scaled(start, make_bundle(kind="scale_invariant"), "range")
    client.listen("depth/image_rect")
    client.send_until(lambda: "no scale from range" in process.log(), scene(), info_message(), "refused")
    assert "nothing heard on /range/scan, /range/range, /range/points, /range/depth: remap" in process.lines("ERROR")[0]
    state(states, WARN, "no scale yet: nothing heard on /range/scan")
    assert not client.received["depth/image_rect"]


@pytest.mark.parametrize(("source", "topic", "kind"), [("range", "range/scan", LaserScan), ("odometry", "odom", Odometry)])
def test_a_sensor_whose_qos_does_not_fit_is_named(start, client, states, make_bundle, source, topic, kind):
    reliable = {f"qos_overrides./{topic}.subscription.reliability": "reliable"}
    process = start(NODE, model=make_bundle(kind="scale_invariant").path, **{"scale.source": source}, **reliable).wait_ready()
    lossy = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
    misfit = client.node.create_publisher(kind, topic, lossy)
    client.listen("depth/image_rect")

    def scale_says(text, since):
        client.send_until(lambda: states.find("mono_depth: scale", WARN, text, since), scene(), info_message(), text)
        return {item.key: item.value for item in states.find("mono_depth: scale", WARN, text, since)[-1].values}

    text = "a publisher has incompatible QoS (reliability)"
    said = scale_says(f"no scale yet: /{topic}: {text}", 0)
    assert said[f"incompatible QoS on /{topic}"].startswith(text)
    assert any(f"'/{topic}': {text}" in line for line in process.lines("WARN"))
    client.node.destroy_publisher(misfit)
    said = scale_says(f"no scale yet: nothing heard on /{topic}", len(states.seen))
    assert f"incompatible QoS on /{topic}" not in said


def test_qos_of_tf_static_can_be_overridden(client, monkeypatch):
    """With a message of another package in the place of tf2_msgs, which PyPI does not have."""
    monkeypatch.setitem(sys.modules, "tf2_msgs.msg", SimpleNamespace(TFMessage=TransformStamped))
    override = Parameter("qos_overrides./tf_static.subscription.reliability", value="best_effort")
    listener = Node("listener", context=client.node.context, parameter_overrides=[override])
    undo = NodeTopics(listener).listen_static(lambda message: None)
    (info,) = client.spin_until(lambda: client.node.get_subscriptions_info_by_topic("/tf_static"), "/tf_static subscribed")
    qos = info.qos_profile
    assert (qos.reliability, qos.durability) == (ReliabilityPolicy.BEST_EFFORT, DurabilityPolicy.TRANSIENT_LOCAL)
    undo()
    listener.destroy_node()


@pytest.mark.parametrize(
    ("source", "topic", "said"),
    [
        ("range", "range/scan", "not sensor_msgs/msg/LaserScan; remap the one of them"),
        ("odometry", "odom", "not nav_msgs/msg/Odometry; remap odom to your robot's odometry"),
    ],
)
def test_a_sensor_of_another_type_is_named(start, client, make_bundle, source, topic, said):
    """A lidar's cloud on the topic for scans, or for odometry."""
    process = start_scaled(start, make_bundle(kind="scale_invariant"), source)
    Sensor(client, topic, cloud(np.ones((30, 3), np.float32)))
    client.listen("depth/image_rect")
    client.send_until(lambda: f"/{topic} has" in process.log(), scene(), info_message(), "refused")
    assert f"/{topic} has sensor_msgs/msg/PointCloud2, {said}" in process.lines("ERROR")[-1]


def test_each_camera_has_its_own_scale(start, make_bundle):
    """Two cameras on one engine see the same; front has a scan, left has none, until it has one of another scale."""
    start_scaled(start, make_bundle(kind="scale_invariant"), "range", cameras="[front, left]")
    front, left = Client("front"), Client("left")
    for client in (front, left):
        client.listen("depth/image_rect")
    Sensor(front, "range/scan", scan())
    for _ in range(3):
        left.send(scene(), info_message())
        (depth,) = front.ask(scene(), info_message(), "depth/image_rect")
        assert np.median(depth_array(depth) / true_depth(np.arange(128))) == pytest.approx(1, abs=0.02)
    assert not left.received["depth/image_rect"]
    Sensor(left, "range/scan", scan(to_metres=lambda unit: 0.5 * unit))
    (depth,) = left.ask(scene(), info_message(), "depth/image_rect")
    assert np.median(depth_array(depth) / true_depth(np.arange(128), lambda unit: 0.5 * unit)) == pytest.approx(1, abs=0.02)
    for client in (front, left):
        client.close()


def test_a_cloud_gives_scale_and_shift_to_an_affine_bundle(start, client, states, make_bundle):
    """1 / depth = 1 / (2 unit) + 0.03, from a lidar 0.5 m before the camera, with columns of points over the view."""

    def to_metres(unit):
        return 1 / (1 / (SCALE * unit) + 0.03)

    v, u = np.mgrid[2:62:4, 2:126]
    depth = true_depth(u, to_metres)
    optical = np.stack([(u - 60) / 100 * depth, (v - 30) / 100 * depth, depth], axis=-1).reshape(-1, 3)
    body = np.stack([optical[:, 2] - 0.5, -optical[:, 0], -optical[:, 1]], axis=1)
    Sensor(client, "range/points", cloud(body.astype(np.float32)))
    process = start_scaled(start, make_bundle(kind="affine_invariant"), "range", sensor_pose="0.5 0 0 0 0 0")
    client.listen("depth/image_rect", "depth/uncertainty")
    depth, sigma = client.ask(scene(), info_message(), "depth/image_rect", "depth/uncertainty")
    truth = np.broadcast_to(true_depth(np.arange(128), to_metres), (64, 128))
    assert np.median(np.abs(depth_array(depth) / truth - 1)) < 0.02
    assert (np.abs(depth_array(depth) - truth) < depth_array(sigma) + 0.02 * truth).mean() > 0.95
    said = state(states, OK, "range: factor")
    assert float(said["shift [1/m]"]) == pytest.approx(0.03, abs=0.006)
    assert [key for key in said if f"`{key}`" not in INTERFACES] == []
    assert "Traceback" not in process.log()


def cloud(points, offset=4):
    """A PointCloud2 of (n, 3) float32 with something before x, y, z and a padded row."""
    message = PointCloud2(height=1, width=len(points), point_step=offset + 16, row_step=(offset + 16) * len(points) + 8)
    message.header.frame_id = "lidar"
    message.fields = [PointField(name=name, offset=offset + 4 * k, datatype=7, count=1) for k, name in enumerate("xyz")]
    data = np.zeros((len(points), offset + 16), np.uint8)
    data[:, offset : offset + 12] = np.ascontiguousarray(points).view(np.uint8)
    message.data = data.tobytes() + bytes(8)
    return message


def test_height_above_the_ground_makes_metres(start, client, states, make_bundle):
    """Ground 1 unit below the camera, which is 2 m above it."""
    start_scaled(start, make_bundle(kind="scale_invariant"), "camera_height", camera_height=2.0)
    rows = (np.arange(64) - 30) / 100
    unit = np.where(rows > 0.01, 1 / np.maximum(rows, 0.01), 20.0).clip(0, 24)
    pixels = np.zeros((64, 128, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = np.round(unit * 10)[:, None], 30
    client.listen("depth/image_rect")
    (depth,) = client.ask(image_message(pixels, "rgb8"), info_message(), "depth/image_rect")
    np.testing.assert_allclose(depth_array(depth)[44:60, 64], 2 / rows[44:60], rtol=0.03)
    said = state(states, OK, "camera_height: factor")
    assert float(said["factor"]) == pytest.approx(2.0, rel=0.03)
    assert float(said["relative sigma"]) >= 0.01  # 0.02 m of 2 m, which no averaging takes away


def test_a_fixed_factor_with_its_uncertainty(start, client, states, make_bundle):
    process = start_scaled(start, make_bundle(kind="scale_invariant"), "fixed", factor=2.0, factor_sigma=0.05)
    client.listen("depth/image_rect", "depth/uncertainty")
    depth, sigma = client.ask(wall(metres=5.0, sigma=0.2), info_message(), "depth/image_rect", "depth/uncertainty")
    np.testing.assert_allclose(depth_array(depth), 10.0, rtol=1e-5)
    np.testing.assert_allclose(depth_array(sigma), np.hypot(0.4, 0.05 * 10), rtol=1e-5)
    assert state(states, OK, "fixed: factor 2")["relative sigma"] == "0.0500"
    assert process.stop() == 0


# ---- the scale of one camera, in this process: what it hears comes over DDS


@pytest.fixture
def scaling(client):
    """Open one and hear its messages through `client`."""
    opened = []

    def make(kind="scale_invariant", prefix="", **scale):
        opened.append(Scaling(NodeTopics(client.node), ScaleParams(**scale), kind, prefix))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


def shots(texture, metres=0.3, count=8):
    """The corridor every 0.2 s, `metres` further on each time; the prediction is in units of 3 m."""
    return [shot(texture, moved(metres * k), 100.0 + 0.2 * k) for k in range(count)]


def odometry(stamp_s, forward_m):
    message = Odometry(child_frame_id="base_link")
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(round(stamp_s * 1e9), 10**9)
    message.pose.pose.position.x, message.pose.pose.orientation.w = forward_m, 1.0
    return message


def test_odometry_gives_the_scale_of_one_of_several_cameras(client, scaling):
    one = scaling(source="odometry", prefix="front/")
    publisher = client.node.create_publisher(Odometry, "front/odom", 50)
    client.spin_until(publisher.get_subscription_count, "front/odom subscribed")
    frames = shots(make_texture())
    with pytest.raises(InputError, match="nothing heard on /front/odom"):
        one.scale_for(*frames[0][:2])
    for k in range(40):
        publisher.publish(odometry(99.9 + 0.05 * k, 1.5 * (0.05 * k - 0.1)))
    newest_ns = round((99.9 + 0.05 * 39) * 1e9)
    client.spin_until(lambda: one._input._history.newest_ns() == newest_ns, "odometry heard")
    for frame, prediction, _ in frames[1:]:
        try:
            scale = one.scale_for(frame, prediction)
        except InputError:
            scale = None
    assert scale.factor == pytest.approx(3.0, rel=0.03)
    assert 0.02 <= scale.sigma < 0.1  # never surer than odometry itself
    status = one.status()
    assert (status.level, status.values["source"]) == (OK, "odometry")
    # It stops for longer than the time-out: what it knew is as sure as before.
    for k in range(1, 300):
        publisher.publish(odometry(newest_ns / 1e9 + 0.05 * k, 1.5 * (0.05 * 39 - 0.1)))
        client.spin_until(lambda k=k: one._input._history.newest_ns() >= newest_ns + k * 50_000_000 - 1000, "odometry heard")
    stands = [shot(make_texture(), moved(2.775), 101.85 + 0.5 * k)[:2] for k in range(29)]
    later = [one.scale_for(*item) for item in stands]
    assert later[-1].sigma < 1.2 * later[2].sigma


def sonar_at(time) -> Range:
    """What a sonar before the end wall says, whose prediction is 6: three times as far."""
    message = Range(field_of_view=0.1, min_range=0.2, max_range=40.0, range=18.0)
    message.header.frame_id, message.header.stamp = "sonar", time
    return message


def hear_one(client, one, message) -> None:
    publisher = client.node.create_publisher(type(message), "range/range", 5)
    client.spin_until(publisher.get_subscription_count, "subscribed")
    publisher.publish(message)
    client.spin_until(lambda: one._input._heard, "range heard")


def test_a_sonar_measures_with_one_value(client, scaling):
    one = scaling(source="range", sensor_pose=AT_CAMERA)
    frame, prediction, _ = shot(make_texture(), moved(), 100.0)
    hear_one(client, one, sonar_at(Time(sec=100)))
    scale = one.scale_for(frame, prediction)
    assert scale.factor == pytest.approx(3.0, rel=0.02)
    assert scale.sigma == pytest.approx(math.hypot(0.1, 0.01), rel=0.01)


def test_a_sonar_cannot_tell_scale_and_shift_and_does_not_disturb_what_can(client, scaling):
    """One distance for two unknowns; beside it a depth image that is less near in time."""
    one = scaling(kind="affine_invariant", source="range", sensor_pose=AT_CAMERA)
    sonars, images = (
        client.node.create_publisher(kind, topic, 5) for kind, topic in ((Range, "range/range"), (Image, "range/depth"))
    )
    client.spin_until(lambda: sonars.get_subscription_count() and images.get_subscription_count(), "subscribed")
    frame, prediction, _ = shot(make_texture(), moved(), 100.0)
    frames = (replace(frame, stamp_ns=time_s * 10**9) for time_s in range(100, 1000))

    def reason():
        later = next(frames)
        sonars.publish(sonar_at(Time(sec=later.stamp_ns // 10**9)))
        client._executor.spin_once(timeout_sec=0.1)
        with pytest.raises(InputError, match="no scale from range") as refused:
            one.scale_for(later, prediction)
        return str(refused.value)

    need = "a Range (sonar, infrared) is one distance; scale and shift of an affine_invariant bundle need many: publish a scan, "
    wait_until(lambda: f"{need}cloud or depth image on one of /range/scan, /range/points, /range/depth" in reason(), reason)
    later = next(frames)
    deep = image_message((3 * prediction.depth).astype(np.float32), "32FC1")
    deep.header.stamp.sec, deep.header.stamp.nanosec = later.stamp_ns // 10**9, 50_000_000
    sonars.publish(sonar_at(Time(sec=later.stamp_ns // 10**9)))
    images.publish(deep)
    client.spin_until(lambda: any(isinstance(heard, Image) for _, heard in one._input._heard), "depth heard")
    assert one.scale_for(later, prediction).factor == pytest.approx(3.0, rel=0.02)


def test_a_sparse_depth_image_measures_and_a_wrong_one_is_said(client, scaling):
    one = scaling(source="range")  # the image is the camera's own view: no pose is needed
    publisher = client.node.create_publisher(Image, "range/depth", 5)
    client.spin_until(publisher.get_subscription_count, "subscribed")
    frame, prediction, _ = shot(make_texture(), moved(), 100.0)
    sparse = np.zeros((160, 320), np.uint16)
    chosen = np.random.default_rng(0).choice(sparse.size, 300, replace=False)
    sparse.flat[chosen] = np.round(3000 * prediction.depth.flat[chosen])
    good, bad = image_message(sparse, "16UC1"), image_message(sparse, "mono16")
    for count, (message, time_s) in enumerate(((bad, 100), (good, 101)), 1):
        message.header.stamp.sec = time_s
        publisher.publish(message)
        client.spin_until(lambda count=count: len(one._input._heard) >= count, "depth heard")
    with pytest.raises(InputError, match=r"encoding 'mono16'; expected 32FC1 or 16UC1"):
        one.scale_for(frame, prediction)
    later = shot(make_texture(), moved(), 101.0)[0]
    assert one.scale_for(later, prediction).factor == pytest.approx(3.0, rel=0.01)


def test_where_the_sensor_sits_must_be_known(client, scaling):
    one = scaling(source="range")
    message = scan()
    message.header.stamp.sec = 100
    one._input._on_message(message)
    with pytest.raises(InputError, match=r"where 'laser' sits beside 'camera' is unknown: publish it on /tf_static, or set"):
        one.scale_for(*shot(make_texture(), moved(), 100.0)[:2])


def test_static_transforms_tell_where_a_sensor_sits(client):
    """base -> camera -> optical, base -> laser, as a robot's URDF has them."""
    extrinsics = Extrinsics(NodeTopics(client.node), "")
    extrinsics.add([transform("base", "camera", 0.2, 0.0), transform("/base", "laser", 0.5, np.pi)])
    assert extrinsics.optical_T("optical", "laser") is None
    optical = TransformStamped(child_frame_id="optical")
    optical.header.frame_id = "camera"
    turn = optical.transform.rotation
    turn.x, turn.y, turn.z, turn.w = -0.5, 0.5, -0.5, 0.5  # REP 103's optical frame
    extrinsics.add([optical])
    expected = OPTICAL_T_BODY @ pose_from_text(f"0.3 0 0 0 0 {np.pi}")
    np.testing.assert_allclose(extrinsics.optical_T("optical", "laser"), expected, atol=1e-9)
    np.testing.assert_allclose(extrinsics.optical_T("optical", "optical"), np.eye(4), atol=1e-12)
    given = Extrinsics(NodeTopics(client.node), "0.3 0 0 0 0 0")
    np.testing.assert_allclose(given.optical_T("any", "other"), OPTICAL_T_BODY @ pose_from_text("0.3 0 0 0 0 0"))


def transform(parent, child, x, yaw):
    message = TransformStamped(child_frame_id=child)
    message.header.frame_id = parent
    message.transform.translation.x = x
    message.transform.rotation.z, message.transform.rotation.w = float(np.sin(yaw / 2)), float(np.cos(yaw / 2))
    return message


def test_images_without_stamps_age_by_the_clock(client, scaling):
    one = scaling(source="camera_height", camera_height=1.5, timeout_s=0.3)
    frame, prediction, _ = shot(make_texture(), moved(), 0.0)
    assert one.scale_for(frame, prediction).factor == pytest.approx(3.0, rel=0.02)
    blind = DepthPrediction(np.full_like(prediction.depth, 5.0), prediction.sigma, prediction.camera)  # a wall before the lens
    time.sleep(0.4)
    with pytest.raises(InputError, match=r"no scale from camera_height.*tilted"):
        one.scale_for(frame, blind)
    assert one.status().level == ERROR


def test_images_without_stamps_are_measured_against_ranges_of_now(client, scaling):
    one = scaling(source="range", sensor_pose=AT_CAMERA)
    frame, prediction, _ = shot(make_texture(), moved(), 0.0)
    hear_one(client, one, sonar_at(client.node.get_clock().now().to_msg()))
    assert one.scale_for(frame, prediction).factor == pytest.approx(3.0, rel=0.02)


def test_images_without_stamps_are_measured_against_odometry_of_now(client, scaling):
    """The robot goes 0.3 m, stands while it is looked at, and so on: where it is does not depend on the moment."""
    one = scaling(source="odometry")
    publisher = client.node.create_publisher(Odometry, "odom", 50)
    client.spin_until(publisher.get_subscription_count, "odom subscribed")
    measured = []
    for k, (still, prediction, _) in enumerate(shots(make_texture())):
        time.sleep(0.2)  # between two measurements
        now_ns = client.node.get_clock().now().nanoseconds
        for stamp_ns in (now_ns - 20_000_000, now_ns):
            publisher.publish(odometry(stamp_ns / 1e9, 0.3 * k))
        client.spin_until(lambda heard=now_ns - 1000: (one._input._history.newest_ns() or 0) >= heard, "odometry heard")
        with suppress(InputError):  # the first, with nothing to compare it with
            measured.append(one.scale_for(replace(still, stamp_ns=0), prediction).factor)
    assert measured, one.status()
    assert measured[-1] == pytest.approx(3.0, rel=0.03)


def test_tf_static_is_heard(client):
    """Where tf2_msgs is: it is in a ROS 2 install, and not on PyPI."""
    kind = pytest.importorskip("tf2_msgs.msg", reason="needs a ROS 2 install").TFMessage
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    client.node.create_publisher(kind, "/tf_static", latched).publish(kind(transforms=[transform("camera", "laser", 0.5, 0.0)]))
    extrinsics = Extrinsics(NodeTopics(client.node), "")
    found = client.spin_until(lambda: extrinsics.optical_T("camera", "laser") is not None, "the transform heard")
    assert found
    extrinsics.close()


# ---- messages


def test_points_of_a_cloud_with_other_fields_and_padding():
    points = np.random.default_rng(0).uniform(-5, 5, (50, 3)).astype(np.float32)
    np.testing.assert_array_equal(range_messages.points_of_cloud(cloud(points)), points)


def test_points_of_a_big_endian_cloud_of_doubles():
    points = np.arange(12.0).reshape(4, 3)
    message = PointCloud2(height=2, width=2, point_step=24, row_step=48, is_bigendian=True)
    message.fields = [PointField(name=name, offset=8 * k, datatype=8, count=1) for k, name in enumerate("xyz")]
    message.data = points.astype(">f8").tobytes()
    np.testing.assert_array_equal(range_messages.points_of_cloud(message), points)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"point_step": 8}, "contradict each other"),
        ({"row_step": 3}, "contradict each other"),
        ({"width": 10**6, "row_step": 20 * 10**6}, "contradict each other"),
        ({"fields": []}, "no float field x, y, z"),
    ],
)
def test_a_cloud_that_lies_is_refused(change, said):
    message = cloud(np.zeros((5, 3), np.float32))
    for name, value in change.items():
        setattr(message, name, value)
    with pytest.raises(InputError, match=said):
        range_messages.points_of_cloud(message)


def test_depth_images_in_metres_and_millimetres():
    metres = np.array([[1.5, 0.0], [np.nan, 7.25]], np.float32)
    np.testing.assert_array_equal(range_messages.metres_of_image(image_message(metres, "32FC1", padding=4)), metres)
    big = image_message(np.array([[1500, 0]], ">u2"), "16UC1", is_bigendian=True)
    np.testing.assert_allclose(range_messages.metres_of_image(big), [[1.5, 0.0]])
    big.step = 1
    with pytest.raises(InputError, match="says step 1"):
        range_messages.metres_of_image(big)


def test_a_range_out_of_its_limits_is_none():
    """REP 117: +inf is nothing in range, -inf too close; at the limits it is a measurement."""
    for value, expected in ((2.0, 2.0), (0.2, 0.2), (5.0, 5.0), (5.1, None), (0.1, None), (np.inf, None), (-np.inf, None)):
        message = Range(field_of_view=0.3, min_range=0.2, max_range=5.0, range=value)
        found = range_messages.distance_of_range(message)
        assert found == (None if expected is None else pytest.approx(expected))
    with pytest.raises(InputError, match="field_of_view"):
        range_messages.distance_of_range(Range(range=1.0, max_range=2.0))


def test_documented_topics_are_those_that_are_subscribed():
    rows = re.findall(r"^\| `(range/\w+)` \| sensor_msgs/(\w+)", INTERFACES, re.MULTILINE)
    assert {topic: kind for topic, kind in rows} == {topic: kind.__name__ for topic, kind in range_messages.KINDS.items()}


def test_stamps_are_the_images(client, scaling):
    """A scan of another time is not taken, and the reason says by how much it is off."""
    one = scaling(source="range", sensor_pose=AT_CAMERA)
    message = scan()
    message.header.stamp.sec = 137
    one._input._on_message(message)
    assert stamp(message) == 137 * 10**9
    with pytest.raises(InputError, match=r"the nearest is 37\.0 s off.*clocks in step"):
        one.scale_for(*shot(make_texture(), moved(), 100.0)[:2])

"""Bundles of relative inverse depth: metres from a scan that fits scale and shift, or none, under a name that says so."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from diagnostic_msgs.msg import DiagnosticStatus
from harness import NODE, Client, depth_array, image_message, info_message, wall
from rcl_interfaces.msg import Parameter, ParameterValue
from rcl_interfaces.srv import SetParameters
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger
from test_scaling import SCALE, Sensor, corridor_colours, scan, scene, start_scaled, true_depth

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
METRES = ("depth/image_rect", "depth/uncertainty")
RELATIVE = dict.fromkeys(("depth/relative", "depth/relative_uncertainty"), Image)
PUBLISHED = {"/depth/image_rect", "/depth/uncertainty", "/depth/camera_info", "/depth/image_color", "/points"}
OWN = 0.05  # relative error of the network, which it states as its sigma


def to_metres(unit):
    """Depth [m] of what the network sees at a depth of `unit`: 1 / depth = 1 / (2 unit) + 0.03, so 5 to 13 m."""
    return 1 / (1 / (SCALE * unit) + 0.03)


def guess(colours=None):
    """Image that the network (depth = red / 10) errs on by OWN in each of its 32x64 pixels; `colours` (128,): the truth's red."""
    red = (corridor_colours() if colours is None else colours).astype(np.float64)
    error = np.kron(np.random.default_rng(1).standard_normal((32, 64)), np.ones((2, 2)))
    pixels = np.zeros((64, 128, 3), np.uint8)
    pixels[..., 0] = np.round(red / (1 + OWN * error))
    pixels[..., 1] = np.round(10 * OWN * pixels[..., 0])
    return image_message(pixels, "rgb8")


def truth():
    """Depth (32, 64) [m] at the network's resolution."""
    return np.broadcast_to(true_depth(np.arange(0, 128, 2), to_metres), (32, 64))


def start_relative(start, bundle, **parameters):
    return start(NODE, model=bundle.path, **{"scale.source": "relative"}, **parameters).wait_ready()


@pytest.mark.parametrize("outliers", [0.0, 0.4])
def test_a_scan_makes_metres_within_the_stated_sigma(start, client, states, make_bundle, outliers):
    node = {"scale.source": "range", "scale.sensor_pose": "0 0 0 0 0 0", "depth_full_resolution": False}
    start(NODE, model=make_bundle(kind="affine_invariant").path, **node).wait_ready()
    Sensor(client, "range/scan", scan(outliers, to_metres))
    client.listen(*METRES)
    depth, sigma = (depth_array(message) for message in client.ask(guess(), info_message(), *METRES))
    ratio = np.abs(1 / depth - 1 / truth()) / (sigma / depth**2)  # in inverse depth, where it errs like a normal
    assert 0.6 < (ratio < 1).mean() < 0.85
    assert (ratio < 2).mean() > 0.92
    assert np.median(sigma / depth) < 0.1  # and it is no empty statement
    said = {item.key: item.value for item in states.wait("mono_depth: scale", OK, "range: factor").values}
    assert float(said["shift [1/m]"]) == pytest.approx(0.03, abs=2 * float(said["shift sigma [1/m]"]))
    assert float(said["factor"]) == pytest.approx(SCALE, rel=2 * float(said["relative sigma"]))
    assert int(said["inliers"]) <= (1 - outliers) * 60


def test_a_scan_that_dies_ends_depth_until_it_returns(start, client, states, make_bundle):
    process = start_scaled(start, make_bundle(kind="affine_invariant"), "range", timeout_s=4.0, drift=0.2)
    sensor = Sensor(client, "range/scan", scan(to_metres=to_metres))
    client.listen(*METRES)
    image, info = scene(), info_message()
    client.ask(image, info, *METRES)
    sensor.stop()
    died_ns = client.node.get_clock().now().nanoseconds
    client.send_until(lambda: states.find("mono_depth: scale", WARN, "and growing"), image, info, "a warning")
    client.send_until(lambda: "no range within 0.2 s of the image" in process.log(), image, info, "images refused")
    assert "no scale from range, so no metres: no range within" in process.lines("ERROR")[-1]
    after = sorted((stamp, depth_array(m)[0, 0]) for stamp, m in client.received["depth/uncertainty"].items() if stamp > died_ns)
    assert len(after) > 3
    assert all(later >= earlier for (_, earlier), (_, later) in pairwise(after))
    assert after[-1][1] > 1.2 * after[0][1]
    assert after[-1][0] < died_ns + 4.5e9
    states.wait("mono_depth: scale", ERROR, "no scale any more, images are refused: no range within")
    count, seen = len(client.received["depth/image_rect"]), len(states.seen)
    sensor.go_on()
    client.send_until(lambda: len(client.received["depth/image_rect"]) > count, image, info, "answers again")
    states.wait("mono_depth: scale", OK, "range: factor", seen)


@pytest.mark.parametrize("image", [wall(), guess(np.full(128, 50))], ids=["flat", "wobbling"])
def test_a_scan_of_one_wall_gives_nothing_and_says_why(start, client, states, make_bundle, image):
    process = start_scaled(start, make_bundle(kind="affine_invariant"), "range")
    Sensor(client, "range/scan", scan(to_metres=lambda unit: np.full_like(unit, 7.0)))
    client.listen("depth/image_rect")
    client.send_until(lambda: process.log().count("points at several depths") > 3, image, info_message(), "refused")
    states.wait("mono_depth: scale", WARN, "no scale yet")
    assert not client.received["depth/image_rect"]


# ---- scale.source: relative


def test_relative_depth_is_published_as_such_and_no_metres(start, client, states, make_bundle):
    pixels = np.full((64, 128, 3), (50, 20, 0), np.uint8)
    pixels[:, 32:64], pixels[:, 64:96], pixels[:, 96:] = (125, 20, 0), (0, 20, 0), (255, 20, 0)
    start_relative(start, make_bundle(kind="affine_invariant"))
    client.listen(*RELATIVE, types=RELATIVE)
    image = image_message(pixels, "rgb8")
    messages = client.ask(image, info_message(), *RELATIVE)
    assert {message.header.frame_id for message in messages} == {"test_optical_frame"}
    inverse, sigma = (depth_array(message)[32, 16::32] for message in messages)
    # 5 and 12.5 units with a sigma of 0.2; then below min_depth (0.1), and beyond max_depth (25).
    np.testing.assert_allclose(inverse, [1 / 5, 1 / 12.5, np.nan, 0], rtol=1e-6)
    np.testing.assert_allclose(sigma, [0.2 / 5**2, 0.2 / 12.5**2, np.nan, np.nan], rtol=1e-5)
    states.wait("mono_depth: scale", OK, "relative: no metres")
    advertised = {name for name, _ in client.node.get_publisher_names_and_types_by_node("mono_depth", "/")}
    assert {f"/{topic}" for topic in RELATIVE} < advertised
    assert not PUBLISHED & advertised
    off = Parameter(name="publish_uncertainty", value=ParameterValue(type=1, bool_value=False))
    client.call(SetParameters, "/mono_depth/set_parameters", SetParameters.Request(parameters=[off]))
    client.ask(image, info_message(), "depth/relative")  # what was on its way has arrived
    client.received.clear()
    for _ in range(3):
        client.ask(image, info_message(), "depth/relative")
    assert not client.received["depth/relative_uncertainty"]


def test_each_camera_has_relative_depth_of_its_own(start, make_bundle):
    start_relative(start, make_bundle(kind="scale_invariant"), camera_names="[front, left]")
    cameras = {name: Client(name) for name in ("front", "left")}
    for number, client in enumerate(cameras.values(), 1):
        client.listen("depth/relative", types=RELATIVE)
        (message,) = client.ask(wall(metres=5.0 * number), info_message(), "depth/relative")
        np.testing.assert_allclose(depth_array(message), 1 / (5.0 * number), rtol=1e-6)
    for client in cameras.values():
        client.close()


def test_a_reload_takes_another_bundle_without_metres_and_no_metric_one(start, client, make_bundle):
    process = start_relative(start, make_bundle(kind="affine_invariant"))

    def reload(bundle):
        value = Parameter(name="model", value=ParameterValue(type=4, string_value=str(bundle.path)))
        client.call(SetParameters, "/mono_depth/set_parameters", SetParameters.Request(parameters=[value]))
        return client.call(Trigger, "/mono_depth/reload", Trigger.Request())

    refused = reload(make_bundle(width=96, name="metric"))
    assert not refused.success
    assert "kind is 'metric', which scale.source 'relative' does not suit" in refused.message
    other = make_bundle(width=128, height=64, fx=100.0, fy=100.0, kind="scale_invariant", name="other")
    assert reload(other).message == "model 'other' runs"
    client.listen("depth/relative", types=RELATIVE)
    (message,) = client.ask(wall(metres=4.0), info_message(), "depth/relative")
    np.testing.assert_allclose(depth_array(message), 0.25, rtol=1e-6)
    assert process.running()


def test_limits_in_metres_are_refused_where_there_are_none(start, client, make_bundle):
    start_relative(start, make_bundle(kind="affine_invariant"))
    value = Parameter(name="max_depth", value=ParameterValue(type=3, double_value=10.0))
    response = client.call(SetParameters, "/mono_depth/set_parameters", SetParameters.Request(parameters=[value]))
    assert not response.results[0].successful
    assert "in metres, of which scale.source 'relative' has none; expected 0" in response.results[0].reason


@pytest.mark.parametrize(
    ("kind", "source", "sources"),
    [
        ("affine_invariant", "bundle", "range or relative (no metres)"),
        ("affine_invariant", "odometry", "range or relative (no metres)"),
        ("metric", "relative", "bundle or fixed or camera_height or range or odometry"),
    ],
)
def test_a_source_that_does_not_suit_is_refused_at_configure(start, make_bundle, kind, source, sources):
    process = start(NODE, model=make_bundle(kind=kind).path, **{"scale.source": source})
    assert process.wait() == 1
    assert f"kind is '{kind}', which scale.source '{source}' does not suit: set scale.source to {sources}" in process.log()

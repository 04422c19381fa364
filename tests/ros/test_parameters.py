"""Parameters at run time: what can change does, the rest is refused with a reason, and nothing by halves."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy", reason="needs ROS 2")

from harness import LEASE_S, NODE, cloud_array, depth_array, info_message, wall
from rcl_interfaces.srv import GetParameters, ListParameters, SetParametersAtomically
from rclpy.parameter import Parameter, parameter_value_to_python


def set_together(client, **values):
    request = SetParametersAtomically.Request(parameters=[Parameter(n, value=v).to_parameter_msg() for n, v in values.items()])
    return client.call(SetParametersAtomically, "/mono_depth/set_parameters_atomically", request).result


def get(client, *names):
    answer = client.call(GetParameters, "/mono_depth/get_parameters", GetParameters.Request(names=list(names)))
    return [parameter_value_to_python(value) for value in answer.values]


@pytest.fixture
def node(start, make_bundle):
    return start(NODE, model=make_bundle().path).wait_ready()


def test_a_change_is_taken_as_a_whole_or_not_at_all(node, client):
    refused = set_together(client, cloud_stride=2, color_min_depth=50.0, color_max_depth=20.0)
    assert not refused.successful
    assert "color_max_depth is 20.0" in refused.reason
    assert get(client, "cloud_stride", "color_min_depth", "color_max_depth") == [1, 1.0, 80.0]
    # Each by itself would contradict the value that the other one still has.
    assert set_together(client, color_min_depth=100.0, color_max_depth=200.0).successful
    assert get(client, "color_min_depth", "color_max_depth") == [100.0, 200.0]
    refused = set_together(client, cloud_stride=4, threads=2)
    assert not refused.successful
    assert "read-only" in refused.reason
    assert get(client, "cloud_stride") == [1]


def test_depth_outside_the_limits_is_nan_or_inf(node, client):
    client.listen("depth/image_rect", "depth/uncertainty", "points")

    def ask():
        depth, sigma, points = client.ask(wall(), info_message(), "depth/image_rect", "depth/uncertainty", "points")
        return depth_array(depth), depth_array(sigma), cloud_array(points)["z"]

    assert set_together(client, min_depth=6.0).successful
    for array in ask():
        assert np.isnan(array).all()
    assert set_together(client, min_depth=0.0, max_depth=4.0).successful
    depth, sigma, z = ask()
    assert np.isposinf(depth).all()
    assert np.isnan(sigma).all()
    assert np.isnan(z).all()
    assert set_together(client, min_depth=4.0, max_depth=6.0).successful
    for array, metres in zip(ask(), (5.0, 0.2, 5.0), strict=True):
        np.testing.assert_allclose(array, metres, rtol=1e-6)
    refused = set_together(client, max_depth=3.0)
    assert "max_depth is 3.0; expected more than min_depth (4.0)" in refused.reason


def test_depth_at_the_networks_resolution_has_the_camera_of_that(node, client):
    topics = ("depth/image_rect", "depth/uncertainty", "depth/camera_info", "points")
    client.listen(*topics)
    assert set_together(client, depth_full_resolution=False).successful
    depth, sigma, info, points = client.ask(wall(), info_message(), *topics)
    np.testing.assert_allclose(depth_array(depth), np.full((32, 64), 5.0), rtol=1e-6)
    np.testing.assert_allclose(depth_array(sigma), np.full((32, 64), 0.2), rtol=1e-6)
    assert (info.width, info.height) == (64, 32)
    # Pixel u of the network covers the camera's 2u and 2u + 1: the centre 60 of 128 pixels is (60 + .5) / 2 - .5 of 64.
    np.testing.assert_allclose(info.k, [50, 0, 29.75, 0, 50, 14.75, 0, 0, 1])
    assert set_together(client, cloud_full_resolution=True).successful  # each by itself
    depth, _, _, points = client.ask(wall(), info_message(), *topics)
    assert (depth.width, points.width) == (64, 128)


def test_a_topic_can_be_withheld_from_its_subscribers(node, client):
    client.listen("depth/image_rect", "depth/uncertainty")
    client.ask(wall(), info_message(), "depth/image_rect", "depth/uncertainty")
    assert set_together(client, publish_uncertainty=False).successful
    client.ask(wall(), info_message(), "depth/image_rect")  # what was on its way has arrived
    client.received.clear()
    for _ in range(3):
        client.ask(wall(), info_message(), "depth/image_rect")
    assert not client.received["depth/uncertainty"]


def test_no_more_answers_than_max_rate(node, client):
    """Images of three seconds at about 50 Hz, of which 5 Hz are asked for."""
    client.listen("depth/image_rect", qos=200)
    client.ask(wall(), info_message(), "depth/image_rect")
    assert set_together(client, max_rate=5.0).successful
    client.sent.clear()
    client.received.clear()
    start_ns = client.node.get_clock().now().nanoseconds
    while client.node.get_clock().now().nanoseconds - start_ns < 3_000_000_000:
        client.send(wall(), info_message())
        client._executor.spin_once(timeout_sec=0.02)
    answered = sorted(set(client.sent) & set(client.received["depth/image_rect"]))
    seconds = (client.sent[-1] - client.sent[0]) / 1e9
    assert 2 <= len(answered) <= 5 * seconds + 2
    assert min(np.diff(answered)) > 0.1e9  # 0.2 s less the jitter that is allowed, and what scheduling adds


def test_what_ros2_param_dump_writes_loads_again(start, client, make_bundle, tmp_path):
    """As ros2cli dumps it: every parameter that the node lists, qos_overrides and rclpy's own included."""
    settings = {"cloud_stride": 2, "max_depth": 12.5, "qos_overrides./points.publisher.reliability": "best_effort"}
    node = start(NODE, model=make_bundle().path, **settings).wait_ready()
    names = client.call(ListParameters, "/mono_depth/list_parameters", ListParameters.Request()).result.names
    values = dict(zip(names, get(client, *names), strict=True))
    values = {name: value.tolist() if hasattr(value, "tolist") else value for name, value in values.items()}
    file = tmp_path / "mono_depth.yaml"
    file.write_text(yaml.safe_dump({"/mono_depth": {"ros__parameters": values}}))
    assert node.stop() == 0
    client.spin_until(lambda: "mono_depth" not in client.node.get_node_names(), "the first node gone", timeout_s=LEASE_S)

    again = start(NODE, "--params-file", str(file)).wait_ready()
    assert not again.lines("WARN"), again.log()
    assert get(client, "cloud_stride", "max_depth", "camera_names") == [2, 12.5, [""]]
    client.spin_until(lambda: client.node.get_publishers_info_by_topic("/points"), "points advertised")
    (points,) = client.node.get_publishers_info_by_topic("/points")
    assert points.qos_profile.reliability.name == "BEST_EFFORT"

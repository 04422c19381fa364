"""Stamps of every kind: outputs keep them, nothing hangs, and what is wrong is said."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from harness import NODE, info_message, stamp, wall

DAY_NS = 86_400 * 10**9


@pytest.fixture
def said(client):
    seen: list[DiagnosticStatus] = []
    client.node.create_subscription(DiagnosticArray, "/diagnostics", lambda message: seen.extend(message.status), 10)
    return lambda text: [s for s in seen if s.name == "mono_depth: frames" and text in s.message]


def answered_at(client, stamp_ns: int, condition=lambda: True) -> None:
    """Send images of one stamp until its answer is here and `condition` holds."""
    image, info = wall(), info_message()
    image.header.stamp = Time(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    info.header = image.header

    def send() -> bool:
        client.infos.publish(info)
        client.images.publish(image)
        client._executor.spin_once(timeout_sec=0.05)
        return stamp_ns in client.received["depth/image_rect"] and condition()

    client.spin_until(send, f"answer to the image of {stamp_ns} ns")
    assert stamp(client.received["depth/image_rect"][stamp_ns]) == stamp_ns


@pytest.mark.parametrize(
    ("offset_ns", "text"), [(None, "stamp 0"), (-DAY_NS, "s old when they arrive"), (DAY_NS, "s in the future")]
)
def test_images_of_wrong_times_are_answered_and_reported(start, client, make_bundle, said, offset_ns, text):
    start(NODE, model=make_bundle().path).wait_ready()
    client.listen("depth/image_rect")
    now_ns = client.node.get_clock().now().nanoseconds
    answered_at(client, 0 if offset_ns is None else now_ns + offset_ns, lambda: said(text))
    assert said(text)[-1].level == DiagnosticStatus.WARN


def test_time_that_jumps_back_hangs_nothing(start, client, make_bundle, said):
    """As when a bag starts again: every image is answered, whatever came before."""
    start(NODE, model=make_bundle().path).wait_ready()
    client.listen("depth/image_rect")
    now_ns = client.node.get_clock().now().nanoseconds
    for _ in range(3):
        for frame in range(3):
            client.received.clear()
            answered_at(client, now_ns + frame * 2 * 10**9 + 10**9)
            assert len(client.received["depth/image_rect"]) == 1

    def jumps() -> bool:
        return any(v.key == "times that time jumped back" and v.value == "2" for s in said("")[-1:] for v in s.values)

    client.spin_until(jumps, "two jumps on /diagnostics")


def test_a_simulated_clock_that_stands_still_does_not_stop_the_node(start, client, make_bundle):
    start(NODE, model=make_bundle().path, use_sim_time=True, report_period_s=0.5).wait_ready()
    client.listen("depth/image_rect")
    client.ask(wall(), info_message(), "depth/image_rect")

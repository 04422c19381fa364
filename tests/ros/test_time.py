"""Stamps of every kind: outputs keep them, nothing hangs, and what is wrong is said."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from harness import NODE, info_message, stamp, wall
from rosgraph_msgs.msg import Clock

DAY_NS = 86_400 * 10**9


@pytest.fixture
def said(client):
    seen: list[DiagnosticStatus] = []
    client.node.create_subscription(DiagnosticArray, "/diagnostics", lambda message: seen.extend(message.status), 10)
    return lambda text: [s for s in seen if s.name == "mono_depth: frames" and text in s.message]


def time_message(stamp_ns: int) -> Time:
    return Time(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)


def answered_at(client, stamp_ns: int, condition=lambda: True) -> None:
    """Send images of one stamp until its answer is here and `condition` holds."""
    image, info = wall(), info_message()
    image.header.stamp = time_message(stamp_ns)
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
    process = start(NODE, model=make_bundle().path, report_period_s=0.5).wait_ready()
    client.listen("depth/image_rect")
    now_ns = client.node.get_clock().now().nanoseconds
    answered_at(client, 0 if offset_ns is None else now_ns + offset_ns, lambda: said(text))
    assert said(text)[-1].level == DiagnosticStatus.WARN
    process.wait_log(text)  # also where nobody reads /diagnostics


def test_time_that_jumps_back_hangs_nothing(start, client, make_bundle, said):
    """As when a bag starts again: every image is answered, whatever came before."""
    start(NODE, model=make_bundle().path).wait_ready()
    client.listen("depth/image_rect")
    now_ns = client.node.get_clock().now().nanoseconds
    stamps_ns = [now_ns + frame * 2 * 10**9 + 10**9 for frame in range(3)]
    for _ in range(3):
        for stamp_ns in stamps_ns:
            client.received.clear()
            answered_at(client, stamp_ns)
            assert client.received["depth/image_rect"].keys() <= set(stamps_ns)  # one sent twice may be answered late

    def jumps() -> bool:
        return any(v.key == "times that time jumped back" and v.value == "2" for s in said("")[-1:] for v in s.values)

    client.spin_until(jumps, "two jumps on /diagnostics")


def test_a_simulated_clock_that_stands_still_does_not_stop_the_node(start, client, make_bundle):
    start(NODE, model=make_bundle().path, use_sim_time=True, report_period_s=0.5).wait_ready()
    client.listen("depth/image_rect")
    client.ask(wall(), info_message(), "depth/image_rect")


class SimulatedClock:
    """/clock, 100 times a second, as a simulator or a bag sends it."""

    def __init__(self, client, now_ns: int) -> None:
        self.now_ns, self.runs = now_ns, True
        self._publisher = client.node.create_publisher(Clock, "/clock", 10)
        client.node.create_timer(0.01, self._publish)

    def _publish(self) -> None:
        self.now_ns += self.runs * 10**7
        self._publisher.publish(Clock(clock=time_message(self.now_ns)))


AGES_MS = range(10, 201, 10)
LATENCY = {"median": "105.0", "p95": "190.5", "max": "200.0"}  # of these ages: at 9.5, 18.05 and 19 of the 19 steps between them


def send_one_of_each_age(client, clock) -> None:
    image, info = wall(), info_message()
    for age_ms in AGES_MS:
        stamp_ns = clock.now_ns - age_ms * 10**6
        image.header.stamp = info.header.stamp = time_message(stamp_ns)
        client.infos.publish(info)
        client.images.publish(image)
        client.spin_until(lambda s=stamp_ns: s in client.received["depth/image_rect"], "answer")
    client.received.clear()


def test_a_simulated_clock_that_runs_stands_and_jumps_back(start, client, make_bundle, said):
    """While it stands, the latency of each image is its age, so that a period with one image of each age is known exactly."""
    start(NODE, model=make_bundle().path, use_sim_time=True).wait_ready()
    client.listen("depth/image_rect")
    clock = SimulatedClock(client, 1000 * 10**9)
    for _ in range(5):
        answered_at(client, clock.now_ns)
    clock.runs = False

    def values() -> list[dict[str, str]]:
        return [{item.key: item.value for item in status.values} for status in said("") if status.values]

    def whole_rounds() -> list[dict[str, str]]:
        """What is said of the latency in periods of one round and nothing else."""
        periods = [
            (last, now) for last, now in pairwise(values()) if int(now["answered"]) - int(last["answered"]) == len(AGES_MS)
        ]
        return [{name: now[f"latency, {name} [ms]"] for name in LATENCY} for _, now in periods]

    while LATENCY not in whole_rounds():  # one may lie across the end of a period
        assert len(whole_rounds()) < 3, whole_rounds()
        count = len(values())
        client.spin_until(lambda count=count: len(values()) > count, "the end of a period")
        send_one_of_each_age(client, clock)
        count = len(values())
        client.spin_until(lambda count=count: len(values()) > count, "what is said of it")
    clock.now_ns, clock.runs = 500 * 10**9, True
    answered_at(client, clock.now_ns, lambda: values()[-1]["times that time jumped back"] == "1")
    jumped = len(said(""))
    answered_at(client, clock.now_ns, lambda: len(said("")) > jumped)
    assert re.search(r"answered/s, latency \d+ ms", said("")[-1].message)
    assert said("")[-1].level == DiagnosticStatus.OK

"""docs/interfaces.md says what the node has: each topic, service, parameter and diagnostic."""

from __future__ import annotations

import importlib.util
import re
import shutil
from collections import defaultdict
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from diagnostic_msgs.msg import DiagnosticStatus
from harness import LEASE_S, NODE, info_message
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from std_srvs.srv import Trigger
from test_scaling import AT_CAMERA, Sensor, scan, scene

from depth_ros.tools.document_parameters import with_table
from depth_ros.types import InputError

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "interfaces.md").read_text(encoding="utf-8")
OF_EVERY_NODE = ("/rosout", "/parameter_events", "/mono_depth/transition_event", "/clock")
OF_AN_INSTALL = {"/tf_static"} if importlib.util.find_spec("tf2_msgs") is None else set()  # its messages are not on PyPI
RANGES = ("range/scan", "range/range", "range/points", "range/depth")
RELATIVE = {"depth/relative", "depth/relative_uncertainty"}  # in place of all other outputs of a camera
ROWS = re.findall(r"^\| `([\w/]+)` \| (\w+)/(\w+) \| (in|out) \| ([\w ,]+) \|", PAGE, re.MULTILINE)
SERVED_BY_ALL = ("rcl_interfaces/", "type_description_interfaces/")
OK, WARN, ERROR, STALE = (getattr(DiagnosticStatus, level) for level in ("OK", "WARN", "ERROR", "STALE"))
STATUSES = re.findall(r"^\| `mono_depth: (\w+)` \| (.*?) \| (.*?) \|(.*?)\| (.*) \|$", PAGE, re.MULTILINE)
ALIKE = {
    "not ": "not <engine>",
    "incompatible QoS on ": "incompatible QoS on <topic>",
    "subscribers of ": "subscribers of depth/image_rect",
}
METRIC = {name for name, _, _, direction, _ in ROWS if direction == "out" and name[0] != "/"} - RELATIVE


def test_the_table_of_parameters_is_the_nodes_own():
    assert with_table(PAGE) == PAGE, "python -m depth_ros.tools.document_parameters"


def test_a_page_without_a_place_for_the_table_is_refused():
    with pytest.raises(InputError, match="lacks the marks"):
        with_table("# Interfaces")


def wait_for_node(client) -> None:
    client.spin_until(lambda: ("mono_depth", "/") in client.node.get_node_names_and_namespaces(), "node discovered")


@pytest.mark.parametrize(
    ("settings", "absent"),
    [
        ({"scale.source": "range"}, {"image/compressed", "odom", *RELATIVE}),
        ({"scale.source": "odometry", "image_transport": "compressed"}, {"image", *RANGES, *RELATIVE}),
        ({"scale.source": "relative"}, {"image/compressed", "odom", "/tf_static", *RANGES, *METRIC}),
    ],
)  # fmt: skip
def test_topics_and_their_types_and_directions(start, client, make_bundle, settings, absent):
    start(NODE, model=make_bundle(kind="scale_invariant").path, **settings).wait_ready()
    documented = {direction: {} for direction in ("in", "out")}
    for name, package, kind, direction, _ in ROWS:
        if name not in absent | OF_AN_INSTALL:
            documented[direction]["/" + name.lstrip("/")] = [f"{package}/msg/{kind}"]

    def found(ask) -> dict[str, list[str]]:
        topics = dict(ask("mono_depth", "/"))
        return {name: kinds for name, kinds in topics.items() if name not in OF_EVERY_NODE}

    wait_for_node(client)
    for ask, direction in (
        (client.node.get_publisher_names_and_types_by_node, "out"),
        (client.node.get_subscriber_names_and_types_by_node, "in"),
    ):
        client.spin_until(
            lambda ask=ask, direction=direction: found(ask) == documented[direction],
            lambda ask=ask, direction=direction: f"{direction}: {found(ask)}; documented: {documented[direction]}",
            LEASE_S,
        )


@pytest.mark.parametrize(("source", "absent"), [("range", RELATIVE), ("relative", {"/tf_static", *RANGES, *METRIC})])
def test_qos_of_the_topics(start, client, make_bundle, source, absent):
    start(NODE, model=make_bundle(kind="scale_invariant").path, **{"scale.source": source}).wait_ready()
    policies = ""
    for name, _, _, direction, text in ROWS:
        policies = text if text != "as above" else policies
        ask = client.node.get_publishers_info_by_topic if direction == "out" else client.node.get_subscriptions_info_by_topic
        if name in {"image/compressed", "odom", *absent, *OF_AN_INSTALL}:
            continue
        topic = "/" + name.lstrip("/")
        client.spin_until(lambda a=ask, t=topic: a(t), f"{topic} is there")
        profile = next(info.qos_profile for info in ask(topic) if info.node_name == "mono_depth")
        reliability, durability = (part.strip().replace(" ", "_").upper() for part in policies.split(",")[:2])
        assert (profile.reliability.name, profile.durability.name) == (reliability, durability), topic


def test_services(start, client, make_bundle):
    start(NODE, model=make_bundle().path).wait_ready()
    rows = dict(re.findall(r"^\| `~/(\w+)` \| (\w+/\w+) \|", PAGE, re.MULTILINE))

    def own() -> dict[str, str]:
        services = dict(client.node.get_service_names_and_types_by_node("mono_depth", "/"))
        kinds = {name: kind.replace("/srv", "") for name, (kind, *_) in services.items()}
        return {name.removeprefix("/mono_depth/"): kind for name, kind in kinds.items() if not kind.startswith(SERVED_BY_ALL)}

    wait_for_node(client)
    client.spin_until(lambda: own() == rows, lambda: f"{own()}; documented: {rows}", LEASE_S)


# ---- diagnostics


def documented_values() -> dict[str, set[str]]:
    """Of each status, from the table of statuses and that of what `frames` says."""
    table = PAGE.partition("What `frames` says:")[2].partition("### Services")[0]
    cells = {part: values for part, *_, values in STATUSES}
    cells["frames"] = "".join(re.findall(r"^\| (`.*?) \|", table, re.MULTILINE))
    return {part: set(re.findall(r"`([^`]+)`", values)) for part, values in cells.items()}


def documented_levels() -> dict[str, set[bytes]]:
    found = {}
    for part, ok, warn, error, _ in STATUSES:
        cells = {OK: ok, WARN: warn, ERROR: error.partition("STALE")[0], STALE: error.partition("STALE")[2]}
        found[part] = {level for level, cell in cells.items() if cell.strip()}
    return found


def general(key: str) -> str:
    """A value's name as it is documented: of any engine, topic or output."""
    for begin, name in ALIKE.items():
        if key.startswith(begin):
            return name
    return key


def live_through_everything(client, states, bundle) -> None:
    """No image, no scale, a scale, none any more, no image any more, loaded again, and a model that is not there."""
    client.listen("depth/image_rect")

    def send_until(part: str, level: bytes, text: str = "") -> None:
        found = partial(states.find, f"mono_depth: {part}", level, text, len(states.seen))
        client.send_until(found, scene(), info_message(), f"{part} {level!r}")

    states.wait("mono_depth: frames", WARN, "no image")
    send_until("scale", WARN, "nothing heard")
    send_until("frames", ERROR, "images refused")
    sensor = Sensor(client, "range/scan", scan())
    send_until("scale", OK, "range: factor")
    send_until("frames", OK, "answered/s")
    sensor.stop()
    send_until("scale", ERROR, "no scale any more")
    states.wait("mono_depth: frames", STALE, "no image")
    assert client.call(Trigger, "/mono_depth/reload", Trigger.Request()).success
    states.wait("mono_depth: engine", WARN, "loading")
    shutil.rmtree(bundle.path)
    for transition in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP, Transition.TRANSITION_CONFIGURE):
        client.call(ChangeState, "/mono_depth/change_state", ChangeState.Request(transition=Transition(id=transition)))
    states.wait("mono_depth: engine", ERROR, "no such folder")


def test_values_and_levels_of_the_diagnostics(start, client, states, make_bundle):
    """Every one that is documented is said, and every one that is said is documented."""
    bundle = make_bundle(kind="affine_invariant")
    chosen = {"scale.source": "range", "scale.sensor_pose": AT_CAMERA, "scale.timeout_s": 1.0}
    start(NODE, model=bundle.path, **chosen).wait_ready()
    live_through_everything(client, states, bundle)
    values, levels = defaultdict(set), defaultdict(set)
    for status in states.seen:
        if status.name.startswith("mono_depth: "):
            part = status.name.removeprefix("mono_depth: ")
            values[part] |= {general(item.key) for item in status.values}
            levels[part].add(status.level)
    rare = {"incompatible QoS on <topic>"}  # tested where it occurs, as a second node of the name is
    levels["node"].add(WARN)
    assert {part: names - rare for part, names in documented_values().items()} == values
    assert documented_levels() == levels

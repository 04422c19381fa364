"""docs/interfaces.md says what the node has: each topic, service, parameter and diagnostic."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from diagnostic_msgs.msg import DiagnosticArray
from harness import LEASE_S, NODE, info_message, wall

from depth_ros.tools.document_parameters import with_table
from depth_ros.types import InputError

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "interfaces.md").read_text(encoding="utf-8")
OF_EVERY_NODE = ("/rosout", "/parameter_events", "/mono_depth/transition_event", "/clock")
OF_AN_INSTALL = {"/tf_static"} if importlib.util.find_spec("tf2_msgs") is None else set()  # its messages are not on PyPI
RANGES = ("range/scan", "range/range", "range/points", "range/depth")
RELATIVE = {"depth/relative", "depth/relative_uncertainty"}  # in place of all other outputs of a camera
ROWS = re.findall(r"^\| `([\w/]+)` \| (\w+)/(\w+) \| (in|out) \| ([\w ,]+) \|", PAGE, re.MULTILINE)
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
    rows = dict(re.findall(r"^\| `~/(\w+)` \| (std_srvs/\w+) \|", PAGE, re.MULTILINE))

    def own() -> dict[str, str]:
        services = dict(client.node.get_service_names_and_types_by_node("mono_depth", "/"))
        ours = {name: kind.replace("/srv", "") for name, (kind, *_) in services.items() if "std_srvs" in kind}
        return {name.removeprefix("/mono_depth/"): kind for name, kind in ours.items()}

    wait_for_node(client)
    client.spin_until(lambda: own() == rows, lambda: f"{own()}; documented: {rows}", LEASE_S)


def test_values_of_the_diagnostics(start, client, make_bundle):
    """Every one that is documented is said, and every one that is said is documented."""
    start(NODE, model=make_bundle().path, engine="onnxruntime").wait_ready()
    said: set[str] = set()
    client.node.create_subscription(
        DiagnosticArray, "/diagnostics",
        lambda m: said.update(v.key for s in m.status if s.name == "mono_depth: frames" for v in s.values), 10,
    )  # fmt: skip
    client.listen("depth/image_rect")
    table = PAGE.partition("What `frames` says:")[2].partition("### Services")[0]
    documented = {name for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`([^`]+)`", row)}
    rare = {"last refusal", "incompatible QoS on <topic>"}  # tested where they occur
    common = documented - rare
    client.send_until(lambda: common <= said, wall(), info_message(), lambda: f"{common - said} were never said")
    assert {key for key in said if not key.startswith("subscribers of ")} <= documented

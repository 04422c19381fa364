"""config/mono_depth.policy.xml allows what the running node does on the ROS graph, and nothing else; no message names a file."""

from __future__ import annotations

import ctypes
import os
import xml.etree.ElementTree as ET
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from harness import LEASE_S, NODE, ROOT, image_message, info_message, wall
from test_interfaces import METRIC, OF_AN_INSTALL, RELATIVE, ROWS, wait_for_node

POLICY = ROOT / "config" / "mono_depth.policy.xml"
# By element: the attributes it must have, those it may have, and its children. Of SROS2's policy schema, version 0.2.0.
SCHEMA = {
    "policy": ({"version"}, set(), {"enclaves"}),
    "enclaves": (set(), set(), {"enclave"}),
    "enclave": ({"path"}, set(), {"profiles"}),
    "profiles": (set(), {"type"}, {"profile", "metadata"}),
    "profile": ({"ns", "node"}, set(), {"topics", "services", "actions"}),
    "topics": (set(), {"publish", "subscribe"}, {"topic"}),
    "services": (set(), {"reply", "request"}, {"service"}),
    "actions": (set(), {"call", "execute"}, {"action"}),
}
RULES = {"publish", "subscribe", "reply", "request", "call", "execute"}
LEAVES = {"topic", "service", "action"}
ASKED = {"publish": "publisher", "subscribe": "subscriber", "reply": "service", "request": "client"}
IN_OPEN = 0x20  # of Linux' inotify
RUNS = (
    {"scale.source": "range", "use_sim_time": True},
    {"scale.source": "odometry", "image_transport": "compressed"},
    {"scale.source": "relative"},
)  # fmt: skip


def violations(element: ET.Element) -> list[str]:
    """What the schema does not allow in an element and below."""
    if element.tag in LEAVES:
        good = element.text and element.text == element.text.strip() and not element.attrib and not len(element)
        return [] if good else [f"{element.tag}: {element.text!r}"]
    needed, optional, children = SCHEMA[element.tag]
    given = set(element.attrib)
    found = [f"{element.tag}: {name}" for name in (needed - given) | (given - needed - optional)]
    found += [f"{name}={value}" for name, value in element.items() if name in RULES and value not in ("ALLOW", "DENY")]
    found += [f"{child.tag} in {element.tag}" for child in element if child.tag not in children]
    found += [f"{element.tag} is empty"] * (not len(element))
    return found + [line for child in element if child.tag in children for line in violations(child)]


def permitted(policy: ET.Element) -> dict[str, Counter[str]]:
    """By kind of rule the full names that it allows, as SROS2 resolves them: `~` is the node, others are in the namespace."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for profile in policy.iter("profile"):
        space = profile.get("ns").rstrip("/")
        for group in profile:
            names = [leaf.text for leaf in group]
            full = [n if n[0] == "/" else f"{space}/{n.replace('~', profile.get('node'), 1)}" for n in names]
            for rule, value in group.items():
                assert value == "ALLOW", "what is not allowed is denied"
                found[rule].update(full)
    return found


@pytest.fixture
def policy() -> ET.Element:
    return ET.parse(POLICY).getroot()


def test_the_policy_is_one(policy):
    assert policy.tag == "policy"
    assert policy.get("version") == "0.2.0"
    assert violations(policy) == []
    assert [enclave.get("path") for enclave in policy.iter("enclave")] == ["/mono_depth"]
    assert {(p.get("ns"), p.get("node")) for p in policy.iter("profile")} == {("/", "mono_depth")}
    doubled = {name: count for names in permitted(policy).values() for name, count in names.items() if count > 1}
    assert not doubled


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('<topics publish="ALLOW">', '<topics publish="YES">', "publish=YES"),
        ('<topics publish="ALLOW">', '<topics reply="ALLOW">', "topics: reply"),
        (' path="/mono_depth"', "", "enclave: path"),
        ("<topic>odom</topic>", "<service>odom</service>", "service in topics"),
        ("<topic>odom</topic>", "<topic> odom</topic>", "topic: ' odom'"),
        ("<topic>/clock</topic>", "", "topics is empty"),
    ],
)  # fmt: skip
def test_a_broken_policy_would_be_found(old, new, said):
    text = POLICY.read_text(encoding="utf-8")
    assert old in text
    assert said in violations(ET.fromstring(text.replace(old, new).encode()))


def test_every_documented_topic_is_in_the_policy(policy):
    allowed = permitted(policy)
    for name, _, _, direction, _ in ROWS:
        assert f"/{name.lstrip('/')}" in allowed["publish" if direction == "out" else "subscribe"]


def test_the_running_node_needs_all_that_the_policy_allows_and_nothing_else(start, client, make_bundle, policy):
    allowed = {rule: set(names) - OF_AN_INSTALL for rule, names in permitted(policy).items()}
    needed: dict[str, set[str]] = defaultdict(set)

    def ask() -> dict[str, set[str]]:
        asks = {rule: getattr(client.node, f"get_{kind}_names_and_types_by_node") for rule, kind in ASKED.items()}
        return {rule: {name for name, _ in names_and_types("mono_depth", "/")} for rule, names_and_types in asks.items()}

    def missing_at_first(settings) -> set[str]:
        """What the graph has late: the policy's names less those of other settings."""
        others = {"/image"} if "image_transport" in settings else {"/image/compressed"}
        relative = settings["scale.source"] == "relative"
        others |= {f"/{name}" for name in (METRIC if relative else RELATIVE)}
        others |= {n for n in allowed["subscribe"] if "/range/" in n} if settings["scale.source"] != "range" else set()
        others |= {"/odom"} if settings["scale.source"] != "odometry" else set()
        others |= {"/tf_static"} if relative else set()
        others |= set() if "use_sim_time" in settings else {"/clock"}
        return set().union(*allowed.values()) - others - set().union(*ask().values())

    for settings in RUNS:
        process = start(
            NODE, model=make_bundle(kind="scale_invariant").path, engine="onnxruntime", **settings
        ).wait_ready()  # fmt: skip
        wait_for_node(client)
        client.spin_until(
            lambda s=settings: not missing_at_first(s), lambda s=settings: f"not there: {missing_at_first(s)}", LEASE_S
        )
        for rule, names in ask().items():
            needed[rule] |= names
        process.stop()
        client.spin_until(lambda: ("mono_depth", "/") not in client.node.get_node_names_and_namespaces(), "node gone", LEASE_S)
    assert {rule: names for rule, names in needed.items() if names} == allowed


@pytest.fixture
def bait(tmp_path) -> Iterator[tuple[Path, int]]:
    """A file, and what can be read from as soon as any process opens it."""
    file = tmp_path / "bait.jpg"
    file.write_bytes(b"x")
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(os.O_NONBLOCK)
    assert libc.inotify_add_watch(watch, bytes(file), IN_OPEN) >= 0, os.strerror(ctypes.get_errno())
    yield file, watch
    os.close(watch)


def was_opened(watch: int) -> bool:
    try:
        return bool(os.read(watch, 4096))
    except BlockingIOError:
        return False


def test_no_string_of_a_message_is_opened_as_a_file(start, client, make_bundle, bait):
    file, watch = bait
    process = start(NODE, model=make_bundle().path, engine="onnxruntime").wait_ready()
    named, odd = wall(), image_message(np.zeros((64, 128, 3), np.uint8), str(file))
    named.header.frame_id = str(file)
    client.listen("depth/image_rect", "points")
    depth, cloud = client.ask(named, info_message(), "depth/image_rect", "points")
    assert depth.header.frame_id == cloud.header.frame_id == str(file)
    client.send_until(lambda: "encoding" in process.log(), odd, info_message(), "encoding refused")
    info = info_message()
    info.distortion_model, info.d = str(file), [0.1] * 5
    client.send_until(lambda: "distortion" in process.log(), wall(), info, "distortion model refused")
    assert str(file)[:30] in process.log()  # as what was found, shortened
    assert not was_opened(watch)
    file.read_bytes()
    assert was_opened(watch)

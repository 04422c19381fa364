"""The launch file evaluated for real, without `launch`: stand-ins record what it asks for, and that is then started."""

from __future__ import annotations

import importlib.util
import os
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy", reason="needs ROS 2")

from harness import NODE, OUTPUTS, ROOT, Client, depth_array, info_message, wait_until, wall
from rcl_interfaces.srv import GetParameters

NAMES = ["model", "autostart", "use_sim_time"]
LAUNCH_FILE = ROOT / "launch" / "mono_depth.launch.py"
RVIZ_FILE = ROOT / "config" / "mono_depth.rviz"
RVIZ_TYPES = {
    "rviz_default_plugins/Image": "sensor_msgs/msg/Image",
    "rviz_default_plugins/PointCloud2": "sensor_msgs/msg/PointCloud2",
}
ARGUMENTS = {
    "namespace", "image_topic", "camera_info_topic", "params_file", "model", "engine", "use_rviz", "use_sim_time", "log_level",
    "autostart", "precision", "build_if_missing", "camera_names", "image_transport", "scale_source",
}  # fmt: skip


class Recorded:
    """Stand-in for any class of launch and launch_ros: keeps what it was made with."""

    def __init__(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.kind, self.args, self.kwargs = name, args, kwargs

    def perform(self, context: dict[str, str]) -> str:
        return resolve(self, context)


def recording_module(name: str) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__path__ = []
    module.__getattr__ = lambda kind: lambda *args, **kwargs: Recorded(kind, args, kwargs)
    return module


@pytest.fixture
def launched(monkeypatch, tmp_path) -> list[Recorded]:
    """The entities of the launch description, the package being 'installed' as this checkout."""
    marker = tmp_path / "share" / "ament_index" / "resource_index" / "packages" / "depth_ros"
    marker.parent.mkdir(parents=True)
    marker.touch()
    (tmp_path / "share" / "depth_ros").symlink_to(ROOT)
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"{tmp_path}:{os.environ['AMENT_PREFIX_PATH']}")
    monkeypatch.delenv("FASTRTPS_DEFAULT_PROFILES_FILE", raising=False)
    return evaluate(monkeypatch)


def evaluate(monkeypatch) -> list[Recorded]:
    for name in ("launch", "launch.actions", "launch.conditions", "launch.substitutions", "launch_ros", "launch_ros.actions",
                 "launch_ros.parameter_descriptions"):  # fmt: skip
        monkeypatch.setitem(sys.modules, name, recording_module(name))
    spec = importlib.util.spec_from_file_location("mono_depth_launch", LAUNCH_FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return list(module.generate_launch_description().args[0])


def of_kind(entities: list[Recorded], kind: str) -> list[Recorded]:
    return [entity for entity in entities if entity.kind == kind]


def resolve(value: Any, values: dict[str, str]) -> str:
    """What launch makes of a substitution."""
    if not isinstance(value, Recorded):
        return str(value)
    if value.kind == "ParameterValue":
        return resolve(value.args[0], values)
    assert value.kind == "LaunchConfiguration"
    return values[value.args[0]]


def command(node: Recorded, values: dict[str, str]) -> list[str]:
    """ROS arguments with which launch_ros would start the node."""
    given = node.kwargs
    names = ["-r", f"__node:={given['name']}"]
    if namespace := resolve(given["namespace"], values):
        names += ["-r", f"__ns:=/{namespace}"]
    remaps = [text for old, new in given["remappings"] for text in ("-r", f"{old}:={resolve(new, values)}")]
    parameters = []
    for item in given["parameters"]:
        if isinstance(item, dict):
            for name, value in item.items():
                text = resolve(value, values)
                parameters += ["-p", f"{name}:={repr(text) if value.kwargs['value_type'] is str else text}"]
        else:
            parameters += ["--params-file", resolve(item, values)]
    extra = [resolve(item, values) for item in given["arguments"]]
    assert extra[0] == "--ros-args"
    return names + remaps + parameters + extra[1:]


def nodes(entities: list[Recorded], **given: str) -> tuple[list[Recorded], dict[str, str]]:
    """The nodes that launch starts with these arguments, and the values of all arguments."""
    values = {**defaults(entities), **given}
    (function,) = of_kind(entities, "OpaqueFunction")
    return function.kwargs["function"](values, *function.kwargs["args"]), values


def node_command(entities: list[Recorded], **given: str) -> list[str]:
    started, values = nodes(entities, **given)
    (node,) = (node for node in started if node.kwargs["package"] == "depth_ros")
    assert f"{node.kwargs['executable']} = depth_ros.ros.node:main" in (ROOT / "setup.py").read_text()
    return command(node, values)


def defaults(entities: list[Recorded]) -> dict[str, str]:
    return {entity.args[0]: entity.kwargs["default_value"] for entity in of_kind(entities, "DeclareLaunchArgument")}


def test_arguments_are_documented(launched):
    declared = of_kind(launched, "DeclareLaunchArgument")
    assert {entity.args[0] for entity in declared} == ARGUMENTS
    assert all(entity.kwargs["description"] for entity in declared)
    assert Path(defaults(launched)["params_file"]).is_file()


def test_dds_profile_is_set_unless_the_user_has_one(launched, monkeypatch):
    (recorded,) = of_kind(launched, "SetEnvironmentVariable")
    assert recorded.args[0] == "FASTRTPS_DEFAULT_PROFILES_FILE"
    assert Path(recorded.args[1]).is_file()
    monkeypatch.setenv("FASTRTPS_DEFAULT_PROFILES_FILE", "/my/own.xml")
    assert not of_kind(evaluate(monkeypatch), "SetEnvironmentVariable")


def test_rviz_only_on_request(launched):
    (rviz,) = (node for node in nodes(launched)[0] if node.kwargs["package"] == "rviz2")
    assert rviz.kwargs["condition"].kind == "IfCondition"
    assert defaults(launched)["use_rviz"] == "false"
    assert Path(rviz.kwargs["arguments"][1]).resolve() == RVIZ_FILE


def test_node_runs_with_the_recorded_arguments(launched, start, make_bundle):
    given = {
        "model": str(make_bundle().path), "namespace": "front",
        "image_topic": "/cam/image_raw", "camera_info_topic": "/cam/camera_info",
    }  # fmt: skip
    process = start(NODE, *node_command(launched, **given)).wait_ready()
    assert "[front.mono_depth]" in process.log()
    client = Client()
    try:
        client.images = client.node.create_publisher(OUTPUTS["depth/image_rect"], "/cam/image_raw", 5)
        client.infos = client.node.create_publisher(OUTPUTS["depth/camera_info"], "/cam/camera_info", 5)
        client.listen("/front/depth/image_rect", types={"/front/depth/image_rect": OUTPUTS["depth/image_rect"]})
        (depth,) = client.ask(wall(), info_message(), "/front/depth/image_rect")
        np.testing.assert_allclose(depth_array(depth), 5.0, rtol=1e-6)
    finally:
        client.close()


def test_parameter_file_counts_and_an_argument_overrides_it(launched, start, make_bundle, tmp_path):
    """A user's file names a model and switches autostart off; an argument that is not given must not undo either."""
    file = tmp_path / "mine.yaml"
    file.write_text(f"/**:\n  ros__parameters:\n    model: {make_bundle().path}\n    autostart: false\n    use_sim_time: true\n")
    client = Client()
    try:
        process = start(NODE, *node_command(launched, params_file=str(file)))
        found = client.call(GetParameters, "/mono_depth/get_parameters", GetParameters.Request(names=NAMES)).values
        assert (found[0].string_value, found[1].bool_value, found[2].bool_value) == (str(make_bundle().path), False, True)
        process.stop()
    finally:
        client.close()
    process = start(NODE, *node_command(launched, params_file=str(file), autostart="true", use_sim_time="false"))
    process.wait_ready()
    assert "model 'probe'" in process.log()


def test_several_cameras_each_below_its_name(launched, start, make_bundle):
    given = {"model": str(make_bundle().path), "camera_names": "[front, rear]", "image_topic": "image_raw"}
    started, values = nodes(launched, **given)
    (rviz,) = (node for node in started if node.kwargs["package"] == "rviz2")
    assert resolve(rviz.kwargs["namespace"], values) == "front"
    assert dict(rviz.kwargs["remappings"])["image"] == "image_raw"
    start(NODE, *node_command(launched, **given)).wait_ready()
    client = Client()
    try:
        for name, metres in (("rear", 7.0), ("front", 5.0)):
            topic = f"/{name}/depth/image_rect"
            client.images = client.node.create_publisher(OUTPUTS["depth/image_rect"], f"/{name}/image_raw", 5)
            client.infos = client.node.create_publisher(OUTPUTS["depth/camera_info"], f"/{name}/camera_info", 5)
            client.listen(topic, types={topic: OUTPUTS["depth/image_rect"]})
            (depth,) = client.ask(wall(metres=metres), info_message(), topic)
            np.testing.assert_allclose(depth_array(depth), metres, rtol=1e-6)
    finally:
        client.close()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"camera_names": "front"}, r"camera_names is 'front'; expected a list of names, as \[front, rear\]"),
        ({"camera_names": "[1, 2]"}, "expected a list of names"),
        ({"camera_names": "[front]", "image_topic": "/front/image_raw"}, "begins with a slash.*: 'image_raw'"),
    ],
)
def test_names_that_would_not_do_what_is_meant_are_refused(launched, given, said):
    with pytest.raises(ValueError, match=said):
        nodes(launched, **given)


def test_transport_and_scale_source_reach_the_node(launched, start, make_bundle):
    given = {
        "model": str(make_bundle().path), "image_transport": "compressed", "scale_source": "range",
        "image_topic": "/cam/image_raw",
    }  # fmt: skip
    start(NODE, *node_command(launched, **given)).wait_ready()
    client = Client()
    try:
        subscribed = client.node.get_subscriptions_info_by_topic
        for topic in ("/cam/image_raw/compressed", "/range/scan"):
            client.spin_until(lambda t=topic: subscribed(t), f"subscribed {topic}")
        assert not subscribed("/cam/image_raw")
    finally:
        client.close()


def test_simulated_time_reaches_rviz_too(launched):
    for given, expected in (({}, []), ({"use_sim_time": "true"}, [{"use_sim_time": "true"}])):
        started, values = nodes(launched, **given)
        (rviz,) = (node for node in started if node.kwargs["package"] == "rviz2")
        found = [{name: resolve(value, values) for name, value in item.items()} for item in rviz.kwargs["parameters"]]
        assert found == expected


def test_rviz_displays_exist(start, client, make_bundle):
    """Every topic that RViz shows is there, of its type, and its QoS matches the offered one."""
    start(NODE, model=make_bundle().path).wait_ready()
    config = yaml.safe_load(RVIZ_FILE.read_text())["Visualization Manager"]
    assert config["Global Options"]["Fixed Frame"] == "camera_optical_frame"  # the player's
    shown = [display for display in config["Displays"] if "Topic" in display]
    assert {display["Topic"]["Value"] for display in shown} == {"image", "depth/image_color", "points"}
    for display in shown:
        topic = display["Topic"]
        publishers = wait_until(lambda name=topic["Value"]: publishers_of(client, name), f"publisher of {topic['Value']}")
        (offered,) = publishers
        assert RVIZ_TYPES[display["Class"]] == offered.topic_type
        assert topic["Durability Policy"] == "Volatile"
        assert topic["Reliability Policy"] == "Best Effort" or offered.qos_profile.reliability.name == "RELIABLE"
    assert {display["Class"] for display in config["Displays"]} <= {*RVIZ_TYPES, "rviz_default_plugins/Grid"}


def publishers_of(client: Client, topic: str) -> list[Any]:
    return client.node.get_publishers_info_by_topic(f"/{topic}")

"""Depth from one or several cameras: `ros2 launch depth_ros mono_depth.launch.py image_topic:=/camera/image_raw`."""

import os
from pathlib import Path
from typing import List  # noqa: UP035 - the form that launch_ros documents for value_type

import yaml
from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchContext, LaunchDescription

DDS_PROFILE = "FASTRTPS_DEFAULT_PROFILES_FILE"  # read by Fast DDS 2 (Humble, Jazzy); later ones have another name and syntax
PARAMETERS = {  # of the node that are arguments as well
    "model": str, "engine": str, "precision": str, "build_if_missing": bool, "use_sim_time": bool, "autostart": bool,
    "camera_names": List[str], "image_transport": str, "scale_source": str,  # noqa: UP006
}  # fmt: skip
NAMES = {"scale_source": "scale.source"}  # of parameters whose argument has another name
AS_IN_FILE = "empty: as in params_file"
BELOW = "; with camera_names below the name of each"


def generate_launch_description() -> LaunchDescription:
    """Start mono_depth_node and, with use_rviz, RViz."""
    share = Path(get_package_share_directory("depth_ros"))
    config = share / "config"
    arguments = [
        DeclareLaunchArgument("namespace", default_value="", description="Namespace of the node and its topics"),
        DeclareLaunchArgument("image_topic", default_value="image", description=f"Image topic of the camera{BELOW}"),
        DeclareLaunchArgument("camera_info_topic", default_value="camera_info", description=f"Its camera_info topic{BELOW}"),
        DeclareLaunchArgument("camera_names", default_value="", description=f"Several cameras, as [front, rear]; {AS_IN_FILE}"),
        DeclareLaunchArgument("image_transport", default_value="", description=f"raw or compressed; {AS_IN_FILE}"),
        DeclareLaunchArgument("scale_source", default_value="", description=f"Where metres come from; {AS_IN_FILE}"),
        DeclareLaunchArgument("params_file", default_value=str(config / "mono_depth.yaml"), description="Parameter file"),
        DeclareLaunchArgument("model", default_value="", description=f"Model bundle folder; {AS_IN_FILE}"),
        DeclareLaunchArgument("engine", default_value="", description=f"Inference backend, or auto; {AS_IN_FILE}"),
        DeclareLaunchArgument("precision", default_value="", description=f"fp32, fp16, int8 or bf16; {AS_IN_FILE}"),
        DeclareLaunchArgument("build_if_missing", default_value="", description=f"Build a missing TensorRT engine; {AS_IN_FILE}"),
        DeclareLaunchArgument("use_rviz", default_value="false", description="RViz with the (first) camera"),
        DeclareLaunchArgument("use_sim_time", default_value="", description=f"Take the time from /clock; {AS_IN_FILE}"),
        DeclareLaunchArgument("log_level", default_value="info", description="debug, info, warn, error or fatal"),
        DeclareLaunchArgument("autostart", default_value="", description=f"Configure and activate at start; {AS_IN_FILE}"),
    ]
    profile = str(config / "fastdds_shm.xml")
    environment = [] if DDS_PROFILE in os.environ else [SetEnvironmentVariable(DDS_PROFILE, profile)]
    return LaunchDescription([*arguments, *environment, OpaqueFunction(function=start, args=[config])])


def start(context: LaunchContext, config: Path) -> list[Node]:
    """Return the nodes. Arguments override the parameter file, so only those that were given become parameters."""
    given = {name: kind for name, kind in PARAMETERS.items() if LaunchConfiguration(name).perform(context)}
    parameters = {
        NAMES.get(name, name): ParameterValue(LaunchConfiguration(name), value_type=kind) for name, kind in given.items()
    }
    cameras = names_of(LaunchConfiguration("camera_names").perform(context))
    topics = {name: LaunchConfiguration(f"{name}_topic").perform(context) for name in ("image", "camera_info")}
    remappings = [(f"{camera}/{old}".lstrip("/"), below(camera, new)) for camera in cameras for old, new in topics.items()]
    node = Node(
        package="depth_ros",
        executable="mono_depth_node",
        name="mono_depth",
        namespace=LaunchConfiguration("namespace"),
        parameters=[LaunchConfiguration("params_file"), *([parameters] if parameters else [])],
        remappings=remappings,
        arguments=["--ros-args", "--log-level", LaunchConfiguration("log_level")],
        output="screen",
    )
    rviz = Node(
        package="rviz2",
        executable="rviz2",
        name="rviz",
        namespace="/".join(part for part in (LaunchConfiguration("namespace").perform(context), cameras[0]) if part),
        arguments=["-d", str(config / "mono_depth.rviz")],
        parameters=[{"use_sim_time": parameters["use_sim_time"]}] if "use_sim_time" in parameters else [],
        remappings=list(topics.items()),
        condition=IfCondition(LaunchConfiguration("use_rviz")),
    )
    return [node, rviz]


def names_of(argument: str) -> list[str]:
    """Return the names of several cameras, or an empty one for the only camera. Raises ValueError for what is no list."""
    names = yaml.safe_load(argument) or [""]
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise ValueError(f"camera_names is '{argument}'; expected a list of names, as [front, rear]")
    return names


def below(camera: str, topic: str) -> str:
    """Return the topic of one of several cameras, or of the only one. Raises ValueError where all would have the same."""
    if camera and topic.startswith("/"):
        raise ValueError(f"topic '{topic}' begins with a slash; with camera_names it is below each: '{topic.split('/')[-1]}'")
    return f"{camera}/{topic}" if camera else topic

"""Depth from one camera: `ros2 launch depth_ros mono_depth.launch.py image_topic:=/camera/image_raw`."""

import os
from pathlib import Path

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
}  # fmt: skip
AS_IN_FILE = "empty: as in params_file"


def generate_launch_description() -> LaunchDescription:
    """Start mono_depth_node and, with use_rviz, RViz."""
    share = Path(get_package_share_directory("depth_ros"))
    config = share / "config"
    arguments = [
        DeclareLaunchArgument("namespace", default_value="", description="Namespace of the node and its topics"),
        DeclareLaunchArgument("image_topic", default_value="image", description="Image topic of the camera"),
        DeclareLaunchArgument("camera_info_topic", default_value="camera_info", description="camera_info topic of the camera"),
        DeclareLaunchArgument("params_file", default_value=str(config / "mono_depth.yaml"), description="Parameter file"),
        DeclareLaunchArgument("model", default_value="", description=f"Model bundle folder; {AS_IN_FILE}"),
        DeclareLaunchArgument("engine", default_value="", description=f"Inference backend, or auto; {AS_IN_FILE}"),
        DeclareLaunchArgument("precision", default_value="", description=f"fp32, fp16, int8 or bf16; {AS_IN_FILE}"),
        DeclareLaunchArgument("build_if_missing", default_value="", description=f"Build a missing TensorRT engine; {AS_IN_FILE}"),
        DeclareLaunchArgument("use_rviz", default_value="false", description="Show image, depth and cloud in RViz"),
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
    parameters = {name: ParameterValue(LaunchConfiguration(name), value_type=kind) for name, kind in given.items()}
    remappings = [("image", LaunchConfiguration("image_topic")), ("camera_info", LaunchConfiguration("camera_info_topic"))]
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
        namespace=LaunchConfiguration("namespace"),
        arguments=["-d", str(config / "mono_depth.rviz")],
        parameters=[{"use_sim_time": parameters["use_sim_time"]}] if "use_sim_time" in parameters else [],
        remappings=remappings,
        condition=IfCondition(LaunchConfiguration("use_rviz")),
    )
    return [node, rviz]

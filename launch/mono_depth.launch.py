"""Depth from one camera: `ros2 launch depth_ros mono_depth.launch.py image_topic:=/camera/image_raw`."""

import os
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchDescription

DDS_PROFILE = "FASTRTPS_DEFAULT_PROFILES_FILE"  # read by Fast DDS 2 (Humble, Jazzy); later ones have another name and syntax


def generate_launch_description() -> LaunchDescription:
    """Start mono_depth_node and, with use_rviz, RViz."""
    share = Path(get_package_share_directory("depth_ros"))
    config = share / "config"
    arguments = [
        DeclareLaunchArgument("namespace", default_value="", description="Namespace of the node and its topics"),
        DeclareLaunchArgument("image_topic", default_value="image", description="Image topic of the camera"),
        DeclareLaunchArgument("camera_info_topic", default_value="camera_info", description="camera_info topic of the camera"),
        DeclareLaunchArgument("params_file", default_value=str(config / "mono_depth.yaml"), description="Parameter file"),
        DeclareLaunchArgument("model", default_value="", description="Model bundle folder; empty: the packaged model"),
        DeclareLaunchArgument("engine", default_value="onnxruntime", description="Inference backend"),
        DeclareLaunchArgument("use_rviz", default_value="false", description="Show image, depth and cloud in RViz"),
        DeclareLaunchArgument("use_sim_time", default_value="false", description="Take the time from /clock"),
        DeclareLaunchArgument("log_level", default_value="info", description="debug, info, warn, error or fatal"),
        DeclareLaunchArgument("autostart", default_value="true", description="Configure and activate at start"),
    ]
    remappings = [("image", LaunchConfiguration("image_topic")), ("camera_info", LaunchConfiguration("camera_info_topic"))]
    node = Node(
        package="depth_ros",
        executable="mono_depth_node",
        name="mono_depth",
        namespace=LaunchConfiguration("namespace"),
        parameters=[
            LaunchConfiguration("params_file"),
            {
                "model": ParameterValue(LaunchConfiguration("model"), value_type=str),
                "engine": ParameterValue(LaunchConfiguration("engine"), value_type=str),
                "use_sim_time": ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool),
                "autostart": ParameterValue(LaunchConfiguration("autostart"), value_type=bool),
            },
        ],
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
        parameters=[{"use_sim_time": ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool)}],
        remappings=remappings,
        condition=IfCondition(LaunchConfiguration("use_rviz")),
    )
    profile = str(config / "fastdds_shm.xml")
    environment = [] if DDS_PROFILE in os.environ else [SetEnvironmentVariable(DDS_PROFILE, profile)]
    return LaunchDescription([*arguments, *environment, node, rviz])

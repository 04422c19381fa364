"""The package as ROS 2 sees it: package.xml, colcon build, and the installed node."""

from __future__ import annotations

import ast
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from depth_ros.calibration import save_calibration
from depth_ros.types import CameraModel

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("depth_ros", "training", "launch", "config", "resource", "package.xml", "setup.py", "setup.cfg")
# Keys of rosdep's python.yaml and packages of the ROS 2 distributions; anything else would not resolve.
ROSDEP_KEYS = {
    "ament_index_python", "builtin_interfaces", "diagnostic_msgs", "launch", "launch_ros", "lifecycle_msgs", "nav_msgs",
    "python3-numpy", "python3-opencv", "python3-pytest", "python3-yaml", "rcl_interfaces", "rclpy", "sensor_msgs", "std_msgs",
    "std_srvs",
    "tf2_msgs",
}  # fmt: skip
PACKAGE_OF_MODULE = {"cv2": "python3-opencv", "numpy": "python3-numpy", "yaml": "python3-yaml"}
# Named in a comment of package.xml, or a tool's only.
WITHOUT_ROSDEP_KEY = {"onnxruntime", "openvino", "cuda", "pycuda", "onnx", "rosbags", "tqdm", "ray"}
OPTIONAL = {"cv_bridge"}


def test_package_xml():
    package = ET.parse(ROOT / "package.xml").getroot()
    assert package.get("format") == "3"
    assert package.findtext("export/build_type") == "ament_python"
    assert package.findtext("license") == "Apache-2.0"
    assert (ROOT / package.find("license").get("file")).read_text().lstrip().startswith("Apache License")
    assert re.fullmatch(r"[^@\s]+@[^@\s]+\.[a-z]+", package.find("maintainer").get("email"))
    dependencies = {item.text for item in package if item.tag.endswith("depend")}
    assert dependencies == ROSDEP_KEYS
    version = package.findtext("version")
    assert f'version="{version}"' in (ROOT / "setup.py").read_text()


def modules_imported(tree: ast.Module) -> set[str]:
    """Top-level names that are imported anywhere in a file."""
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    return {name.split(".")[0] for name in names}


def test_every_import_is_declared():
    declared = ROSDEP_KEYS | WITHOUT_ROSDEP_KEY | OPTIONAL | {"depth_ros"}
    for file in [*(ROOT / "depth_ros").rglob("*.py"), *(ROOT / "launch").glob("*.py")]:
        for module in sorted(modules_imported(ast.parse(file.read_text(encoding="utf-8")))):
            if module not in sys.stdlib_module_names:
                assert PACKAGE_OF_MODULE.get(module, module) in declared, f"{file}: {module} is not in package.xml"


def dotted(values: dict, prefix: str = "") -> dict:
    """Nested mappings as ROS names them."""
    found = {}
    for name, value in values.items():
        found |= dotted(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def test_parameter_file_has_every_parameter_with_its_default():
    pytest.importorskip("rclpy", reason="needs ROS 2")
    from depth_ros.ros.declaration import DEFAULTS

    text = (ROOT / "config" / "mono_depth.yaml").read_text()
    values = dotted(yaml.safe_load(text)["/**"]["ros__parameters"])
    assert values == DEFAULTS
    assert {name: type(value) for name, value in values.items()} == {name: type(value) for name, value in DEFAULTS.items()}
    for name in DEFAULTS:
        key = name.rpartition(".")[2]
        assert re.search(rf"^    (  )?{key}: .*# \S", text, re.MULTILINE), f"{name} has no comment"


@pytest.fixture
def installed(tmp_path, make_bundle) -> Path:
    """Install space of a `colcon build` of a copy of this checkout, with a probe bundle as its default model."""
    pytest.importorskip("colcon_core", reason="needs colcon: pip install -r requirements/dev.txt")
    workspace = tmp_path / "workspace"
    source = workspace / "src" / "depth_ros"
    source.mkdir(parents=True)
    for part in PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, source / part)
    shutil.copytree(make_bundle().path, source / "models" / "default")
    (source / "launch" / "__pycache__").mkdir(exist_ok=True)
    (source / "launch" / "__pycache__" / "mono_depth.launch.pyc").touch()  # as importing the launch file leaves it
    done = subprocess.run(
        [sys.executable, "-m", "colcon", "build", "--event-handlers", "console_direct+"],
        cwd=workspace, capture_output=True, text=True, check=False, env={**os.environ, "COLCON_LOG_PATH": str(workspace / "log")},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Finished <<< depth_ros" in done.stdout
    return workspace / "install" / "depth_ros"


def test_colcon_build_installs_what_ros_looks_for(installed):
    for program in ("mono_depth_node", "camera_player", "build_engine", "check_engine", "check_bundle", "bench", "process"):
        assert os.access(installed / "lib" / "depth_ros" / program, os.X_OK), program
    assert list(installed.rglob("depth_ros/engines/frames/*.jpg"))  # what engines are checked on
    share = installed / "share" / "depth_ros"
    for name in (
        "package.xml", "launch/mono_depth.launch.py", "config/mono_depth.yaml", "config/mono_depth.rviz",
        "config/fastdds_shm.xml", "config/mono_depth.policy.xml", "models/default/model.onnx", "models/default/bundle.yaml",
    ):  # fmt: skip
        assert (share / name).is_file(), name
    assert (installed / "share" / "ament_index" / "resource_index" / "packages" / "depth_ros").is_file()
    assert not list(installed.rglob("training"))  # stays off the robot
    assert [file.name for file in (share / "launch").iterdir()] == ["mono_depth.launch.py"]


def environment(installed: Path) -> dict[str, str]:
    """As after sourcing the workspace."""
    (packages,) = (installed / "lib").glob("python*/site-packages")
    return {
        **os.environ,
        "PYTHONPATH": str(packages),
        "AMENT_PREFIX_PATH": f"{installed}:{os.environ.get('AMENT_PREFIX_PATH', sys.prefix)}",
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "ROS_DOMAIN_ID": str(1 + os.getpid() % 100),
    }


def test_installed_programs_run_with_the_installed_model(installed, tmp_path):
    """check_bundle, and process, whose jobs start as processes of a program that is no Python file by its name."""
    pytest.importorskip("rclpy", reason="needs ROS 2")
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "a.png"), np.full((32, 64, 3), (0, 20, 50), np.uint8))
    save_calibration(CameraModel(64, 32, 50.0, 50.0, 31.5, 15.5), tmp_path / "camera.yaml")
    share = installed / "share" / "depth_ros" / "models" / "default"
    common = ["--engine", "onnxruntime"]
    given = [tmp_path / "images", "--out", tmp_path / "out", "--camera-info", tmp_path / "camera.yaml", "--formats", "png"]
    for program, arguments in {"check_bundle": [share, "--frames", tmp_path / "images"], "process": given}.items():
        command = [installed / "lib" / "depth_ros" / program, *arguments, *common]
        options = {"capture_output": True, "text": True, "timeout": 120, "check": False}
        done = subprocess.run(list(map(str, command)), cwd=tmp_path, env=environment(installed), **options)
        assert done.returncode == 0, done.stdout + done.stderr
    depth = cv2.imread(str(tmp_path / "out" / "images" / "depth" / "a.png"), cv2.IMREAD_UNCHANGED)
    assert set(depth.ravel()) == {5 * 256}


def test_ray_is_pinned_once():
    assert (ROOT / "requirements" / "ray.txt").read_text().splitlines()[-1] in re.findall(
        r'"ray": \["([^"]+)"\]', (ROOT / "setup.py").read_text()
    )


def test_installed_node_starts_with_the_installed_model(installed, tmp_path):
    pytest.importorskip("rclpy", reason="needs ROS 2")
    log = tmp_path / "node.log"
    with log.open("wb") as stream:
        node = subprocess.Popen(
            [installed / "lib" / "depth_ros" / "mono_depth_node"],
            cwd=tmp_path,
            env=environment(installed),
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    try:
        end = time.monotonic() + 20
        while "waiting for images" not in log.read_text() and node.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        assert "model 'probe'" in log.read_text(), log.read_text()
        node.send_signal(signal.SIGINT)
        assert node.wait(5) == 0, log.read_text()
    finally:
        node.kill()

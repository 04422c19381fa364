"""The import rules of the architecture, read off the source: the arrows between the layers never turn round."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from depth_ros.engines import ENGINES

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(path for package in ("depth_ros", "training") for path in (ROOT / package).rglob("*.py"))
ROS = (
    "rclpy",
    "std_srvs",
    "sensor_msgs",
    "std_msgs",
    "diagnostic_msgs",
    "builtin_interfaces",
    "lifecycle_msgs",
    "rcl_interfaces",
    "nav_msgs",
    "geometry_msgs",
    "cv_bridge",
    "tf2_ros",
    "tf2_msgs",
    "ament_index_python",
)
TORCH = ("torch", "torchvision", "lightning", "lightning_fabric", "timm")
BACKENDS = ("onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "cuda", "pycuda")
# What training may use of depth_ros, besides the plain types.
BRIDGE = {
    "training.evaluate": ("bundle", "engines", "estimator"),
    "training.judging": ("bundle", "estimator", "metrics"),
    "training.judge_order": ("bundle", "engines"),
    "training.export": ("bundle", "engines", "estimator", "metrics", "truth"),
    "training.quantise": ("bundle", "engines", "graphs", "images"),
    "training.bundle_writing": ("bundle",),
    "training.calibration": ("bundle", "engines", "estimator", "metrics"),
    "training.importing": ("bundle", "engines", "estimator", "graphs"),
    "training.import_onnx": ("bundle", "engines"),
    "training.fit_metric": ("bundle", "engines", "estimator"),
    "training.teacher_bundle": ("bundle", "engines"),
    "training.train": ("memory",),
    "training.robustness": ("bundle", "engines", "estimator", "metrics"),
    "training.data": ("calibration", "compressed", "images", "truth"),
}

# Each layer may import itself and the layers below it. Layer 0 is the lowest.
ROBOT_LAYERS = (
    ("types", "bundle"),
    ("images", "engines", "graphs", "frame_graph", "scale", "cloud", "worker", "memory", "metrics", "truth", "calibration"),
    ("compressed", "depth_codec", "temporal"),
    ("estimator",),
    ("answers",),
    ("ros", "tools"),
)
ROS_LAYERS = (
    ("params", "messages", "health", "sources", "bag", "range_messages", "wiring", "parameter_files"),
    ("declaration",),
    ("endpoints",),
    ("sensor_topics",),
    ("camera", "camera_answerer", "extrinsics"),
    ("scale_inputs",),
    ("pipeline",),
    ("diagnostics",),
    ("scaling",),
    ("answering", "loading"),
    ("node", "player"),
)
SCALE_LAYERS = (
    ("robust", "track", "poses", "projection"),
    ("ranging", "ground"),
    ("odometry",),
)
TRAINING_LAYERS = (
    ("config", "source_config", "ranges", "batch", "guards", "alignment"),
    ("geometry", "losses", "feature_losses", "relative_losses", "diffusion", "data", "schedules", "devices", "record"),
    ("multi_view", "networks", "uncertainty", "mixing"),
    ("methods", "bundle_writing", "calibration"),
    ("teacher_bundle",),
    ("checkpoint",),
    ("judging",),
    ("evaluate", "quantise"),
    ("importing",),
    ("fit_metric",),
    ("train", "export", "import_onnx", "robustness", "judge_order"),
)
JUDGING_LAYERS = (("protocols", "breakdown", "baselines"), ("judge", "ordinal"), ("foreign", "tables"), ("figures",), ("report",))
PACKAGES = (
    ("depth_ros", ROBOT_LAYERS),
    ("depth_ros.ros", ROS_LAYERS),
    ("depth_ros.scale", SCALE_LAYERS),
    ("training", TRAINING_LAYERS),
    ("training.judging", JUDGING_LAYERS),
)


def module_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(source: str, module: str, is_package: bool = False) -> set[str]:
    """Dotted names that the source imports, anywhere in it; `from a import b` counts as a.b."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".")
            package = package[: len(package) - node.level + is_package] if node.level else []
            base = ".".join([*package, *filter(None, [node.module])])
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


IMPORTS = {module_of(f): imports_of(f.read_text(encoding="utf-8"), module_of(f), f.name == "__init__.py") for f in FILES}


def within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def offenders(where: tuple[str, ...], forbidden: tuple[str, ...]) -> list[str]:
    inside = (module for module in IMPORTS if within(module, where))
    return [f"{module} imports {name}" for module in inside for name in sorted(IMPORTS[module]) if within(name, forbidden)]


def layer(name: str, package: str, layers: tuple[tuple[str, ...], ...]) -> int | None:
    """Number of the layer that a dotted name belongs to, None for what the table does not rank."""
    if not name.startswith(f"{package}."):
        return None
    part = name.removeprefix(f"{package}.").split(".")[0]
    return next((number for number, members in enumerate(layers) if part in members), None)


def upward(package: str, layers: tuple[tuple[str, ...], ...]) -> list[str]:
    found = []
    for module, names in IMPORTS.items():
        own = layer(module, package, layers)
        for name in names:
            other = layer(name, package, layers)
            if own is not None and other is not None and other > own:
                found.append(f"{module} imports {name}")
    return found


def test_relative_and_plain_imports_are_read_alike():
    source = "import torch.nn as nn\nfrom . import losses\nfrom ..geometry import warp\ndef f():\n    from rclpy import node"
    expected = {"torch.nn", "training.methods.losses", "training.geometry.warp", "rclpy.node"}
    assert imports_of(source, "training.methods.monodepth2") == expected
    assert imports_of("from . import losses", "training.methods", is_package=True) == {"training.methods.losses"}


def test_robot_never_imports_torch_or_training():
    assert offenders(("depth_ros",), (*TORCH, "training")) == []


def test_training_never_imports_ros():
    assert offenders(("training",), (*ROS, "depth_ros.ros", "depth_ros.tools")) == []


def test_ros_is_known_only_to_its_folder_and_the_tools():
    rim = ("depth_ros.ros", "depth_ros.tools")
    assert offenders(("depth_ros",), ROS) == offenders(rim, ROS)
    assert all(module.startswith(rim) for module in IMPORTS if any(within(name, rim) for name in IMPORTS[module]))


def test_training_crosses_the_bridge_only_where_it_is_allowed():
    for module, names in IMPORTS.items():
        if within(module, ("training",)):
            parts = {"types", *next((parts for owner, parts in BRIDGE.items() if within(module, (owner,))), ())}
            allowed = tuple(f"depth_ros.{part}" for part in parts)
            crossing = [name for name in names if within(name, ("depth_ros",)) and not within(name, allowed)]
            assert crossing == [], f"{module} imports {crossing}; allowed: {sorted(allowed)}"


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_backend_is_imported_in_at_most_one_file(backend):
    users = [module for module, names in IMPORTS.items() if any(within(name, (backend,)) for name in names)]
    users = [module for module in users if within(module, ("depth_ros",))]
    assert len(users) <= 1, users
    assert all(user.startswith("depth_ros.engines.") for user in users)


def test_every_engine_is_imported_lazily():
    backends = tuple(set(ENGINES.values()))  # what begins alike (trt, trt_runner) belongs together
    eager = [module for module in IMPORTS if module.startswith("depth_ros") and not module.startswith(backends)]
    assert [f"{module} imports {name}" for module in eager for name in IMPORTS[module] if within(name, backends)] == []


@pytest.mark.parametrize(("package", "layers"), PACKAGES)
def test_layers_import_downwards_only(package, layers):
    assert upward(package, layers) == []


def test_upward_imports_would_be_found(monkeypatch):
    monkeypatch.setitem(IMPORTS, "depth_ros.images", {"depth_ros.estimator.Estimator"})
    assert upward("depth_ros", ROBOT_LAYERS) == ["depth_ros.images imports depth_ros.estimator.Estimator"]


@pytest.mark.parametrize(("package", "layers"), PACKAGES)
def test_every_module_has_a_layer(package, layers):
    ranked = {member for members in layers for member in members}
    modules = {module.removeprefix(f"{package}.").split(".")[0] for module in IMPORTS if module.startswith(f"{package}.")}
    assert modules <= ranked, f"{modules - ranked}: say where these belong"


def test_the_training_layers_hold_what_exists():
    ranked = [member for members in TRAINING_LAYERS for member in members]
    assert [member for member in ranked if f"training.{member}" not in IMPORTS] == []


def test_functions_live_with_what_they_are_about():
    assert [str(file) for file in FILES if file.stem in ("utils", "util", "common", "helpers", "misc")] == []


def test_modules_stay_readable():
    long = {str(file.relative_to(ROOT)): lines for file in FILES if (lines := len(file.read_text().splitlines())) > 300}
    assert long == {}


def test_estimator_runs_without_torch_and_ros():
    blocked = ("torch", "training", *ROS)
    script = f"import sys; sys.modules.update(dict.fromkeys({blocked!r})); import depth_ros.estimator, depth_ros.engines.onnxrt"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr

"""Shared fixtures: a bundle whose graph is known in closed form, so that every value downstream can be predicted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from depth_ros import bundle
from depth_ros.bundle import ModelBundle

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

BundleMaker = Callable[..., ModelBundle]


def probe_graph(width: int, height: int) -> onnx.ModelProto:
    """Graph of the probe model: depth = red / 10 [m], sigma = green / 100 [m]."""
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", height, width, 3])
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", height, width]) for n in ("depth", "sigma")]
    constants = {"red": np.int64(0), "green": np.int64(1), "ten": np.float32(10), "hundred": np.float32(100)}
    nodes = [
        helper.make_node("Cast", ["image"], ["colour"], to=TensorProto.FLOAT),
        helper.make_node("Gather", ["colour", "red"], ["r"], axis=3),
        helper.make_node("Gather", ["colour", "green"], ["g"], axis=3),
        helper.make_node("Div", ["r", "ten"], ["depth"]),
        helper.make_node("Div", ["g", "hundred"], ["sigma"]),
    ]
    initialisers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "probe", [image], outputs, initialisers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.fixture
def make_bundle(tmp_path: Path) -> BundleMaker:
    """Write a probe bundle (depth = red / 10, sigma = green / 100) and return it."""

    def make(width: int = 64, height: int = 32, fx: float = 50.0, fy: float = 50.0, **changes: object) -> ModelBundle:
        folder = tmp_path / f"bundle_{width}x{height}"
        folder.mkdir(exist_ok=True)
        onnx.save(probe_graph(width, height), folder / "model.onnx")
        values: dict[str, object] = {
            "name": "probe", "width": width, "height": height, "fx": fx, "fy": fy, "kind": "metric",
            "min_depth": 0.1, "max_depth": 25.0, "sigma_calibration": 1.0, "trained_on": "nothing", "licence": "Apache-2.0",
        }  # fmt: skip
        return bundle.save(ModelBundle(**(values | changes)), folder)

    return make


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real recordings with truth, where this checkout has one beside it."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"real camera data is not at {SHARED_DATA}")
    return SHARED_DATA

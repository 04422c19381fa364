"""Shared fixtures: a bundle whose graph is known in closed form, so that every value downstream can be predicted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from depth_ros import bundle
from depth_ros.bundle import ModelBundle

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"

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


class System(NamedTuple):
    """An exported model, and what torch makes of one image (1, h, w, 3): depth and sigma (1, h, w) [m]."""

    bundle: ModelBundle
    image: np.ndarray
    depth: np.ndarray
    sigma: np.ndarray


LAYER_SCALE = 0.1
SYSTEMS = {  # a recipe each: how far its heads spread, and what else is chosen: a learned sigma, a self-taught student
    "featdepth": (100.0, "method.sigma=log"),
    "low_texture": (20.0, "method.name=self_teaching", "method.teachers=[teacher.ckpt]"),
    "monodiffusion": (3.0,),
    "monodiffusion_few_steps": (10.0,),
}


@pytest.fixture(scope="session", params=SYSTEMS)
def system(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> System:
    """FeatDepth, the low-texture system and MonoDiffusion, untrained and small, with heads that spread depth and sigma."""
    torch, methods = pytest.importorskip("torch"), pytest.importorskip("training.methods")
    from training.config import load_config
    from training.evaluate import TorchEngine, describe_method
    from training.export import export

    torch.manual_seed(0)
    spread, *sigma = SYSTEMS[request.param]
    small = ("network.pretrained=none", "data.width=96", "data.height=64", *sigma)
    method = methods.build_method(load_config(ROOT / "config" / "train" / f"{request.param}.yaml", small)).eval()
    method.focal.fill_(60.0)
    with torch.no_grad():
        for head in method.depth_net.decoder.heads.values():
            head.weight.mul_(spread)
        for name, value in method.depth_net.named_parameters():
            if name.endswith("scale"):  # of Lite-Mono's blocks, which count, as after training
                value.fill_(LAYER_SCALE)
    made = export(method, tmp_path_factory.mktemp("systems") / request.param, describe_method(method, request.param))
    street = cv2.imread(str(next((ROOT / "assets" / "street").rglob("*.jpg"))))[..., ::-1]
    image = cv2.resize(street, (made.width, made.height), interpolation=cv2.INTER_AREA)[None]
    return System(made, image, *TorchEngine(method).infer(image))

"""Only names that every TensorRT from 10.3 on has are used: the code's, read off its source, against recorded tables.

tests/depth_ros/data/tensorrt_names.json holds the names in the packages themselves: tensorrt-cu12-bindings 10.3, 10.13 and
11.4 (imported with empty stand-ins for its C++ libraries) and tensorrt-rtx 1.7. What 11 dropped is recorded as gone_in_11.
"""

import ast
import json
from pathlib import Path

import pytest

TABLE = json.loads((Path(__file__).parent / "data" / "tensorrt_names.json").read_text())
VERSIONS = {version: {kind: set(names.split()) for kind, names in table.items()} for version, table in TABLE["versions"].items()}
FILES = sorted((Path(__file__).resolve().parents[2] / "depth_ros" / "engines").glob("trt*.py"))

# What our variables are called -> TensorRT's class. In trt_build, `tensor` and `error` are TensorRT's as well.
NAMES = {
    "trt": "module",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "builder": "Builder",
    "network": "INetworkDefinition",
    "config": "IBuilderConfig",
    "parser": "OnnxParser",
    "profile": "IOptimizationProfile",
}
NAMES_OF_BUILD = {"tensor": "ITensor", "error": "ParserError"}
RETURNED = {"get_timing_cache": "ITimingCache", "get_input": "ITensor"}
RTX_ONLY = {("module", "ComputeCapability")}


def touched(source, names):
    """(class, attribute) of every attribute of TensorRT's that the source uses."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and not (node.attr.startswith("__") and node.attr != "__version__"):
            kind = kind_of(node.value, names)
            if kind:
                found.add((kind, node.attr))
    return found


def kind_of(node, names):
    """TensorRT's class of an expression, None for what is not TensorRT's."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return RETURNED.get(node.func.attr)
    if isinstance(node, ast.Attribute):
        if isinstance(node.value, ast.Name) and node.value.id == "self":
            return names.get(node.attr.removeprefix("_"))
        return node.attr if kind_of(node.value, names) == "module" else None
    return None


def missing(uses, version):
    table = VERSIONS[version]
    wanted = uses if "rtx" in version else uses - RTX_ONLY
    return sorted(f"{kind}.{name}" for kind, name in wanted if name not in table.get(kind, ()))


USES = set().union(*(touched(f.read_text(), NAMES | (NAMES_OF_BUILD if f.stem == "trt_build" else {})) for f in FILES))


@pytest.mark.parametrize("version", VERSIONS)
def test_every_name_that_is_used_is_in_every_version(version):
    assert missing(USES, version) == []


def test_nothing_that_is_gone_is_used():
    gone = set(TABLE["gone_in_11"].split())
    assert {"BuilderFlag.FP16", "NetworkDefinitionCreationFlag.EXPLICIT_BATCH"} <= gone
    assert {f"{kind}.{name}" for kind, name in USES} & gone == set()


def test_the_reading_finds_what_is_known_to_be_used():
    assert {
        ("module", "Runtime"),
        ("Runtime", "deserialize_cuda_engine"),
        ("ICudaEngine", "create_execution_context"),
        ("ICudaEngine", "num_io_tensors"),
        ("IExecutionContext", "set_tensor_address"),
        ("IExecutionContext", "execute_async_v3"),
        ("TensorIOMode", "INPUT"),
        ("ILogger", "INTERNAL_ERROR"),
        ("NetworkDefinitionCreationFlag", "STRONGLY_TYPED"),
        ("Builder", "build_serialized_network"),
        ("ITimingCache", "serialize"),
        ("ParserError", "node_name"),
    } <= USES


def test_a_name_that_a_version_has_not_is_found():
    uses = touched(
        "def f(trt, builder):\n    self._context.execute_async_v2(builder.platform_has_fast_fp16, trt.BuilderFlag.FP16)", NAMES
    )
    assert missing(uses, "11.4") == ["Builder.platform_has_fast_fp16", "BuilderFlag.FP16", "IExecutionContext.execute_async_v2"]
    assert missing(uses, "10.3") == ["IExecutionContext.execute_async_v2"]


def test_the_installed_tensorrt_rtx_has_what_is_used():
    trt = pytest.importorskip("tensorrt_rtx")
    kinds = [(trt if kind == "module" else getattr(trt, kind), name) for kind, name in USES]
    assert [(kind, name) for kind, name in kinds if not hasattr(kind, name)] == []

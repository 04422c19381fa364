"""How far reduced precision moves depth and sigma from the graph in float32: what the numeric gate's limits rest on.

python benchmarks/gate.py [models/default ...] [--images ../shared/data/kitti2015_stereo/left]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
from onnx import TensorProto, helper

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.report import describe_run, write_report
from depth_ros import bundle as bundles
from depth_ros.bundle import BundleError, ModelBundle
from depth_ros.engines import Engine, EngineError, EngineOptions, load_engine
from depth_ros.engines.gate import DEFAULT_LIMITS, FRAMES, check, load_frames
from depth_ros.types import InputError

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ("depth_median", "depth_p99", "sigma_median", "sigma_p99", "not_finite")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="*", default=[ROOT / "models" / "default"], help="bundles")
    parser.add_argument("--images", type=Path, nargs="*", default=[], help="folders of images, besides those that ship")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "gate.json")
    options = parser.parse_args(arguments)
    report = describe_run("gate.py", arguments)
    report["precisions"] = {name: method.__doc__ for name, method in PRECISIONS.items()}
    try:
        models = [bundles.load(folder) for folder in options.models]
        report["limits"] = DEFAULT_LIMITS
        report["results"] = [row for model in models for row in measure(model, [FRAMES, *options.images])]
        write_report(report, options.out)
    except (BundleError, EngineError, InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def measure(model: ModelBundle, folders: Sequence[Path]) -> Iterator[dict[str, object]]:
    """One row per precision that the bundle has and folder of images. Raises EngineError, InputError."""
    for precision, open_engine in PRECISIONS.items():
        if precision == "int8" and not model.int8:
            continue
        with TemporaryDirectory() as temporary, closing(open_engine(model, Path(temporary))) as engine:
            for folder in folders:
                report = check(engine, model, load_frames(model, folder), precision).as_dict()
                figures = {name: report["figures"][name] for name in FIGURES}
                images = "/".join(folder.resolve().parts[-2:])
                print(model.name, precision, images, {name: f"{value:.2g}" for name, value in figures.items()})
                row = {"model": model.name, "size": f"{model.width}x{model.height}", "precision": precision}
                yield row | {"images": images, "count": report["frames"], "passed": report["passed"]} | figures


def fp32(model: ModelBundle, folder: Path) -> Engine:
    """OpenVINO: the same arithmetic in another order."""
    return load_engine(model, "openvino")


def fp16(model: ModelBundle, folder: Path) -> Engine:
    """Weights and the result of every operation rounded to fp16, sums in fp32: more than an fp16 engine of ours rounds."""
    return _run(rounded(model, TensorProto.FLOAT16), model, folder)


def bf16(model: ModelBundle, folder: Path) -> Engine:
    """The same in bf16: more than OpenVINO rounds."""
    return _run(rounded(model, TensorProto.BFLOAT16), model, folder)


def int8(model: ModelBundle, folder: Path) -> Engine:
    """The bundle's int8 graph, run by ONNX Runtime on the CPU."""
    return load_engine(model, options=EngineOptions(precision="int8"))


PRECISIONS: Mapping[str, Callable[[ModelBundle, Path], Engine]] = {"fp32": fp32, "fp16": fp16, "bf16": bf16, "int8": int8}


def _run(graph: bytes, model: ModelBundle, folder: Path) -> Engine:
    """ONNX Runtime on a graph in place of the model's own; `folder` has to stay as long as the engine."""
    (folder / "model.onnx").write_bytes(graph)
    return load_engine(bundles.save(replace(model, limits={}, int8={}), folder))


def rounded(bundle: ModelBundle, dtype: int) -> bytes:
    """The bundle's graph with a cast to `dtype` (of onnx.TensorProto) and back behind every float32 weight and result inside.

    ONNX Runtime's CPU has no half precision: it runs a graph in fp16 with float32 between its operations, which shows too little.
    """
    model = onnx.load(bundle.graph_path)
    graph = model.graph
    inferred = onnx.shape_inference.infer_shapes(model).graph.value_info
    results = {item.name for item in inferred if item.type.tensor_type.elem_type == TensorProto.FLOAT}
    weights = [item.name for item in graph.initializer if item.data_type == TensorProto.FLOAT]
    nodes = [node for name in weights for node in _rounding(name, dtype)]
    for node in graph.node:
        inputs = [f"{name}.rounded" if name in results or name in weights else name for name in node.input]
        del node.input[:]
        node.input.extend(inputs)
        nodes += [node, *(cast for name in node.output if name in results for cast in _rounding(name, dtype))]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    content: bytes = model.SerializeToString()
    return content


def _rounding(name: str, dtype: int) -> list[onnx.NodeProto]:
    there = helper.make_node("Cast", [name], [f"{name}.short"], to=dtype)
    back = helper.make_node("Cast", [f"{name}.short"], [f"{name}.rounded"], to=TensorProto.FLOAT)
    return [there, back]


if __name__ == "__main__":
    sys.exit(main())

"""A bundle's int8 graph for TensorRT, calibrated on frames of the robot's own camera: model.int8.onnx beside model.onnx.

python -m training.quantise models/mine recordings/frames
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from depth_ros import bundle as bundles
from depth_ros.bundle import BundleError, ModelBundle
from depth_ros.engines import EngineError, EngineOptions, load_engine
from depth_ros.graphs import outer_nodes
from depth_ros.images import resize_image
from depth_ros.types import InputError, UInt8Array

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
FRAMES = 64  # as many to calibrate with as to judge by
FIRST_LAYERS = 3  # stay float32: quantising them too makes the shipped model's median error of depth three times as large
FIGURES = {"median": 0.5, "p99": 0.99}  # quantiles of the relative difference from model.onnx


class _Frames(CalibrationDataReader):
    """Hands frames (N, h, w, 3) to ONNX Runtime one by one."""

    def __init__(self, frames: Iterable[UInt8Array]) -> None:
        self._frames = iter(frames)

    def get_next(self) -> dict[str, UInt8Array] | None:
        frame = next(self._frames, None)
        return None if frame is None else {"image": frame[None]}


def read_frames(folder: Path, bundle: ModelBundle, count: int) -> UInt8Array:
    """Up to `count` of a folder's images, evenly spread by name, as the network gets them (N, h, w, 3) RGB. Raises InputError."""
    files = sorted(path for path in folder.glob("*") if path.suffix.lower() in IMAGES)
    if len(files) < 2:
        raise InputError(f"{folder}: holds {len(files)} images ({', '.join(IMAGES)}); expected at least 2, better {2 * FRAMES}")
    chosen = [files[i] for i in np.unique(np.linspace(0, len(files) - 1, count).round().astype(int))]
    frames = []
    for file in chosen:
        image = cv2.imread(str(file), cv2.IMREAD_COLOR)
        if image is None:
            raise InputError(f"{file}: cannot be read as an image; remove it or export it again")
        frames.append(resize_image(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), bundle.width, bundle.height))
    return np.stack(frames)


def quantise(bundle: ModelBundle, frames: UInt8Array, source: str) -> ModelBundle:
    """Write model.int8.onnx into the bundle's folder and say in bundle.yaml what it is; return the bundle.

    Convolutions get symmetric int8 activations (range: the mean of the frames' extremes) and weights (per channel) as
    quantise / dequantise pairs, float biases: what TensorRT fuses. Every other frame calibrates, the rest judges.
    Raises InputError if there is nothing to quantise, or the graph's depth is not finite on the frames.
    """
    calibrating, judging = frames[::2], frames[1::2]
    with TemporaryDirectory(prefix=".int8_", dir=bundle.path) as temporary:
        named, draft = Path(temporary) / "named.onnx", Path(temporary) / "model.int8.onnx"
        kept = _name_nodes(bundle.graph_path, named)
        _quantise_graph(named, draft, kept, calibrating)
        figures = differences(bundle, draft, judging)
        digest = hashlib.sha256(draft.read_bytes()).hexdigest()
        draft.replace(bundle.int8_path)
    int8 = {"sha256": digest, "calibrated_on": source, "frames": len(calibrating), **figures}
    return bundles.save(replace(bundle, int8=int8), bundle.path)


def _name_nodes(graph: Path, named: Path) -> list[str]:
    """Write the graph with a name for every node; return those of the layers that stay float32: the first and the last."""
    model = onnx.load(graph)
    for number, node in enumerate(model.graph.node):
        node.name = f"node_{number}"
    onnx.helper.set_model_props(model, {"onnx.quant.pre_process": "onnxruntime.quant"})  # fused, as the exporter leaves it
    onnx.save(model, named)
    layers = [node.name for node in model.graph.node if node.op_type == "Conv"]
    kept = [*layers[:FIRST_LAYERS], *(node.name for node in outer_nodes(model.graph))]
    if set(layers) <= set(kept):
        raise InputError(f"{graph}: has {len(layers)} convolutions, none of them between the first {FIRST_LAYERS} and the last")
    return kept


def _quantise_graph(named: Path, draft: Path, kept: Sequence[str], frames: UInt8Array) -> None:
    quantize_static(
        named,
        draft,
        _Frames(frames),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["Conv"],
        nodes_to_exclude=list(kept),
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
        extra_options={
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "QuantizeBias": False,  # TensorRT refuses int32 biases
            "AddQDQPairToWeight": True,  # float weights with a pair, which every TensorRT takes
            "CalibMovingAverage": True,
        },
    )


def differences(bundle: ModelBundle, graph: Path, frames: UInt8Array) -> dict[str, float]:
    """Relative differences of `graph` from the bundle's own on frames (N, h, w, 3): depth_median, depth_p99, sigma_..."""
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "model.onnx").write_bytes(graph.read_bytes())
        other = bundles.save(replace(bundle, int8={}), folder)
        answers = []
        for made in (bundle, other):
            with closing(load_engine(made, options=EngineOptions(threads=1))) as engine:
                answers.append([engine.infer(frame[None]) for frame in frames])
    figures = {}
    for index, name in enumerate(("depth", "sigma")):
        expected, found = (np.concatenate([answer[index] for answer in side]) for side in answers)
        difference = np.abs(found - expected) / expected
        if not np.isfinite(difference).all():
            raise InputError(
                f"{bundle.path}: {name} is not finite on {(~np.isfinite(difference)).sum()} pixels of the frames: check them"
            )
        figures |= {f"{name}_{label}": round(float(np.quantile(difference, share)), 4) for label, share in FIGURES.items()}
    return figures


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="training.quantise", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path, help="folder of the bundle; model.int8.onnx is written into it")
    parser.add_argument("frames", type=Path, help="folder of images as the robot's camera takes them")
    options = parser.parse_args(arguments)
    try:
        bundle = bundles.load(options.bundle)
        made = quantise(bundle, read_frames(options.frames, bundle, 2 * FRAMES), options.frames.resolve().name)
    except (BundleError, EngineError, InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(describe(made))
    return 0


def describe(bundle: ModelBundle) -> str:
    """One line on the int8 graph of a bundle: how far it is from model.onnx."""
    figures = ", ".join(f"{key.replace('_', ' ')} {value:.2%}" for key, value in bundle.int8.items() if isinstance(value, float))
    return f"{bundle.int8_path}: calibrated on {bundle.int8['frames']} frames; differs from model.onnx by {figures}"


if __name__ == "__main__":
    sys.exit(main())

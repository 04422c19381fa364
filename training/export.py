"""Export a checkpoint (or several: an ensemble) as a model bundle: all maths in one graph, sigma calibrated, parity checked.

python -m training.export runs/default/best.ckpt models/default --calibrate ../shared/data/kitti2015_stereo
python -m training.export runs/a/best.ckpt runs/b/best.ckpt models/ensemble --int8 recordings/frames
python -m training.export runs/monodiffusion/best.ckpt models/sure --set method.sigma=samples --set diffusion.samples=8
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from depth_ros import bundle as bundles
from depth_ros import metrics
from depth_ros.bundle import BundleError, ModelBundle
from depth_ros.engines import EngineError, EngineOptions, load_engine
from depth_ros.engines.gate import DEFAULT_LIMITS
from depth_ros.estimator import Estimator, upsample
from depth_ros.types import Float32Array, InputError, UInt8Array
from training.checkpoint import load_method, read_checkpoint
from training.config import ConfigError
from training.data.truth import EvaluationSet, open_evaluation_set
from training.evaluate import Scores, TorchEngine, describe_method, evaluate
from training.methods import CHOICES_HELP, Ensemble, Predictor
from training.quantise import FRAMES, describe, quantise, read_frames

OPSET = 18
STATED = (  # of the scores, in bundle.yaml
    "images", "abs_rel", "abs_rel_median_scaled", "sq_rel", "rmse", "rmse_log", "delta1", "delta2", "delta3",
    "coverage_1sigma", "coverage_2sigma", "nll", "ause_abs_rel", "aurg_abs_rel",
)  # fmt: skip
ONE_SIGMA = 0.6827  # share of a normal distribution within one standard deviation
PARITY = 1e-3  # largest relative difference in depth and sigma between torch and the exported graph
# Smaller shares of the depth count as this: a sigma that is the difference of two depths has their rounding errors.
LEAST_COMPARED = 0.01


class ExportError(Exception):
    """An export that would not be what was trained; the text says what differs."""


class ExportGraph(nn.Module):
    """The bundle contract around a method: uint8 NHWC in, depth and sigma [m] NHW out."""

    def __init__(self, method: Predictor) -> None:
        super().__init__()
        self.method = method

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, h, w, 3) uint8 RGB -> depth, sigma (N, h, w) float32 [m]."""
        depth, sigma = self.method.predict(image.float().permute(0, 3, 1, 2) / 255)  # TensorRT takes uint8 only into a cast
        return depth.squeeze(1), sigma.squeeze(1)


def calibrate_sigma(method: Predictor, dataset: EvaluationSet) -> float:
    """Factor on sigma with which ONE_SIGMA of the set's pixels (images weighted alike) err by less than sigma.

    A pixel that the method puts out of range (+inf) has no sigma and is a miss, as in metrics.coverage(). Raises ExportError if
    the depth is not in metres, and InputError if there is no truth, or so many are out of range that no factor will do.
    """
    description = describe_method(method, "uncalibrated")
    if description.kind != "metric":
        raise ExportError(
            f"{dataset.name}: kind is '{description.kind}'; expected 'metric', since sigma is fitted to truth in metres"
        )
    estimator = Estimator(description, TorchEngine(method))
    ratios, weights = [], []
    for item in dataset:
        truth = item.truth
        prediction = upsample(estimator.predict([item.frame])[0], item.frame.camera)
        valid = metrics.valid_truth(truth) & metrics.garg_crop(*truth.shape) & ~np.isnan(prediction.depth)
        if valid.any():
            depth, sigma = prediction.depth[valid], prediction.sigma[valid]
            ratio = np.where(np.isfinite(depth), np.abs(depth - truth[valid]) / sigma, np.inf)
            ratios.append(ratio)
            weights.append(np.full(ratio.size, 1 / ratio.size))
    if not ratios:
        raise InputError(f"{dataset.name}: no image has truth to calibrate sigma with")
    ratio, weight = np.concatenate(ratios), np.concatenate(weights)
    order = np.argsort(ratio)
    factor = float(ratio[order][np.searchsorted(np.cumsum(weight[order]), ONE_SIGMA * weight.sum())])
    if not np.isfinite(factor):
        raise InputError(
            f"{dataset.name}: over {1 - ONE_SIGMA:.0%} of the measured pixels are out of this model's range, so sigma cannot be "
            "calibrated; expected depth there: raise network.max_depth, or calibrate on nearer scenes"
        )
    return factor


def export(method: Predictor, folder: Path, description: ModelBundle) -> ModelBundle:
    """Write the bundle of `method` with what `description` says, and check it against torch.

    Raises ExportError if the graph is not what was trained; whatever lay in `folder` before stays as it was then.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{folder.name}_", dir=folder.parent) as temporary:
        draft = Path(temporary)
        _write_graph(method, draft / "model.onnx", description)
        check_parity(method, bundles.save(description, draft))
        folder.mkdir(exist_ok=True)
        for name in ("model.onnx", "bundle.yaml"):  # between the two, the old bundle.yaml refuses the new graph by its checksum
            (draft / name).replace(folder / name)
    bundle = bundles.load(folder)
    bundle.int8_path.unlink(missing_ok=True)  # made of the graph that lay here before
    return bundle


def _write_graph(method: Predictor, file: Path, description: ModelBundle) -> None:
    # Two images: torch.export takes a batch of one for a constant.
    example = torch.zeros(2, description.height, description.width, 3, dtype=torch.uint8)
    torch.onnx.export(
        ExportGraph(method).eval(),
        (example,),
        file,
        input_names=["image"],
        output_names=["depth", "sigma"],
        opset_version=OPSET,
        dynamo=True,
        external_data=False,
        dynamic_shapes={"image": {0: torch.export.Dim("N")}},
        verbose=False,
    )
    onnx.save(without_traces(onnx.load(file)), file)


def without_traces(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph without the exporter's notes on each operation, which name the source files of the machine it ran on."""
    graph = model.graph
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    return model


def check_parity(method: Predictor, bundle: ModelBundle, images: UInt8Array | None = None) -> float:
    """difference() between the graph and torch, on noise and ramps.

    Raises ExportError unless it is below PARITY; a value that is not finite never is.
    """
    if images is None:
        shape = (bundle.height, bundle.width, 3)
        noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        ramp = np.broadcast_to(np.linspace(0, 255, bundle.height, dtype=np.uint8)[:, None, None], shape)
        images = np.stack([noise, ramp])
    with closing(load_engine(bundle, options=EngineOptions(threads=1))) as engine:
        found = difference(engine.infer(images), TorchEngine(method).infer(images))
    if not found < PARITY:
        raise ExportError(
            f"{bundle.name}: model.onnx differs from torch by {found:.2g} relative; expected below {PARITY:g}: "
            "the network's depth is not finite, or an operation of it does not survive the export"
        )
    return found


def difference(graph: tuple[Float32Array, Float32Array], reference: tuple[Float32Array, Float32Array]) -> float:
    """Largest relative difference in depth or sigma (N, h, w) [m] of a graph's answer from torch's; NaN if one is not finite.

    A sigma is compared with its own size, or with LEAST_COMPARED of the depth where it is smaller.
    """
    (depth, sigma), (true_depth, true_sigma) = graph, reference
    size = np.maximum(np.abs(true_sigma), LEAST_COMPARED * np.abs(true_depth))
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = np.abs(depth - true_depth) / np.abs(true_depth), np.abs(sigma - true_sigma) / size
    return float(np.max(shares))  # max() would pass over a NaN


def load_predictor(checkpoints: Sequence[Path], changes: Sequence[str] = ()) -> Predictor:
    """The method of one checkpoint, or the ensemble of several, with what is chosen anew. Raises ConfigError."""
    methods = [load_method(path, changes) for path in checkpoints]
    return methods[0] if len(methods) == 1 else Ensemble(methods)


def provenance(checkpoints: Sequence[Path], changes: Sequence[str] = ()) -> dict[str, str]:
    """Where a bundle comes from: runs, steps, hashes of their whole configurations, what was chosen anew, commit, versions."""
    stored = [read_checkpoint(path) for path in checkpoints]
    canonical = [json.dumps(values["config"], sort_keys=True).encode() for values in stored]
    return {
        "run": ", ".join(path.parent.name for path in checkpoints),
        "step": ", ".join(str(values["step"]) for values in stored),
        "config": ", ".join(dict.fromkeys(hashlib.sha256(text).hexdigest()[:12] for text in canonical)),
        **({"set": ", ".join(changes)} if changes else {}),
        "commit": _commit(),
        "torch": str(torch.__version__),
    }


def _commit() -> str:
    """Commit of this code, "unknown" outside a repository or without git."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    try:
        found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "unknown"
    return found.stdout.strip() or "unknown"


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="training.export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, nargs="+", help="several become an ensemble")
    parser.add_argument("bundle", type=Path, help="folder to write, for example models/mine")
    parser.add_argument("--calibrate", type=Path, help="folder with truth: sigma is fitted on every other image, the rest judges")
    parser.add_argument(
        "--int8", type=Path, help="folder of the robot's images: an int8 graph for TensorRT is calibrated on them"
    )
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help=CHOICES_HELP)
    parser.add_argument("--trained-on", default="unstated", help="the training data, for bundle.yaml")
    parser.add_argument("--licence", default="unstated", help="the licence of model and data, for bundle.yaml")
    options = parser.parse_args(arguments)
    try:
        method = load_predictor(options.checkpoint, options.set)
        scores: Scores = {}
        if options.calibrate:
            dataset = open_evaluation_set(options.calibrate)
            method.sigma_calibration.mul_(calibrate_sigma(method, dataset.every_second(0)))
            judged = describe_method(method, options.bundle.name)
            scores = evaluate(Estimator(judged, TorchEngine(method)), dataset.every_second(1))
        else:
            print("note: without --calibrate, sigma is as trained, not fitted to real errors", file=sys.stderr)
        described = describe_method(method, options.bundle.name)
        description = replace(
            described,
            trained_on=options.trained_on,
            licence=options.licence,
            metrics={key: round(scores[key], 4) for key in STATED if key in scores},
            provenance=provenance(options.checkpoint, options.set) | dict(described.provenance),
            limits=DEFAULT_LIMITS,
        )
        frames = read_frames(options.int8, description, 2 * FRAMES) if options.int8 else None
        bundle = export(method, options.bundle, description)
        if frames is not None:
            bundle = quantise(bundle, frames, options.int8.resolve().name)
            print(describe(bundle))
    except (BundleError, ConfigError, EngineError, ExportError, InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    size = f"{bundle.graph_path.stat().st_size / 1e6:.1f} MB"
    if bundle.kind != "metric":
        print(
            f"note: {bundle.path} is {bundle.kind}: its depth is true up to one factor, so the node needs a source of scale "
            "(docs/scale.md); or give the training a source of metres (docs/training.md, Where the metres come from)",
            file=sys.stderr,
        )
    print(f"{bundle.path}: {size}, sigma x {bundle.sigma_calibration:.3f}, {dict(bundle.metrics)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Export a checkpoint (or several: an ensemble) as a model bundle: all maths in one graph, sigma calibrated, parity checked.

python -m training.export runs/default/best.ckpt models/default --calibrate ../shared/data/kitti2015_stereo
python -m training.export runs/a/best.ckpt runs/b/best.ckpt models/ensemble --int8 recordings/frames
python -m training.export runs/monodiffusion/best.ckpt models/sure --set method.sigma=samples --set diffusion.samples=8
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
import torch
from torch import Tensor, nn

from depth_ros import bundle as bundles
from depth_ros.bundle import BundleError, ModelBundle
from depth_ros.engines import EngineError, EngineOptions, load_engine
from depth_ros.engines.gate import DEFAULT_LIMITS
from depth_ros.estimator import Estimator
from depth_ros.types import InputError, UInt8Array
from training.bundle_writing import PARITY, ExportError, commit, difference, draft_of, probe_images, stated
from training.calibration import sigma_factor
from training.checkpoint import load_method, read_checkpoint
from training.config import ConfigError
from training.data.truth import EvaluationSet, open_evaluation_set
from training.evaluate import Scores, TorchEngine, describe_method, evaluate
from training.fit_metric import check_relative, fit_metric, report
from training.methods import CHOICES_HELP, Ensemble, Predictor
from training.quantise import FRAMES, describe, quantise, read_frames

OPSET = 18


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
    """sigma_factor() of a method. Raises ExportError if the depth is not in metres, and InputError as that does."""
    description = describe_method(method, "uncalibrated")
    if description.kind != "metric":
        raise ExportError(
            f"{dataset.name}: kind is '{description.kind}'; expected 'metric', since sigma is fitted to truth in metres"
        )
    return sigma_factor(Estimator(description, TorchEngine(method)), dataset)


def export(method: Predictor, folder: Path, description: ModelBundle) -> ModelBundle:
    """Write the bundle of `method` with what `description` says, and check it against torch.

    Raises ExportError if the graph is not what was trained; whatever lay in `folder` before stays as it was then.
    """
    with draft_of(folder) as draft:
        _write_graph(method, draft / "model.onnx", description)
        check_parity(method, bundles.save(description, draft))
    return bundles.load(folder)


def export_metric(method: Predictor, folder: Path, description: ModelBundle, data: Path | None) -> ModelBundle:
    """As export(); relative inverse depth becomes metres on a set with truth, if one is given. Raises as fit_metric(), too."""
    if data is None:
        return export(method, folder, description)
    check_relative(description.kind, folder)  # and the data, before the graph, which takes longer
    dataset = open_evaluation_set(data)
    with TemporaryDirectory() as temporary:
        return fit_metric(export(method, Path(temporary) / folder.name, description), folder, dataset)


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
    images = probe_images(bundle) if images is None else images
    with closing(load_engine(bundle, options=EngineOptions(threads=1))) as engine:
        found = difference(engine.infer(images), TorchEngine(method).infer(images), bundle.sigma_calibration)
    if not found < PARITY:
        raise ExportError(
            f"{bundle.name}: model.onnx differs from torch by {found:.2g} relative; expected below {PARITY:g}: "
            "the network's depth is not finite, or an operation of it does not survive the export"
        )
    return found


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
        "commit": commit(),
        "torch": str(torch.__version__),
    }


def run(options: argparse.Namespace) -> ModelBundle:
    """Export as the command line says. Raises ConfigError, InputError, ExportError, BundleError or EngineError."""
    if options.calibrate and options.fit_metric:
        raise ConfigError("--calibrate and --fit-metric both fit sigma; expected one of them")
    method = load_predictor(options.checkpoint, options.set)
    scores: Scores = {}
    if options.calibrate:
        dataset = open_evaluation_set(options.calibrate)
        method.sigma_calibration.mul_(calibrate_sigma(method, dataset.every_second(0)))
        scores = evaluate(Estimator(describe_method(method, options.bundle.name), TorchEngine(method)), dataset.every_second(1))
    elif not options.fit_metric:
        print("note: without --calibrate, sigma is as trained, not fitted to real errors", file=sys.stderr)
    described = describe_method(method, options.bundle.name)
    description = replace(
        described,
        trained_on=options.trained_on,
        licence=options.licence,
        metrics=stated(scores),
        provenance=provenance(options.checkpoint, options.set) | dict(described.provenance),
        limits=DEFAULT_LIMITS,
    )
    frames = read_frames(options.int8, description, 2 * FRAMES) if options.int8 else None
    bundle = export_metric(method, options.bundle, description, options.fit_metric)
    return bundle if frames is None else quantise(bundle, frames, options.int8.resolve().name)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="training.export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, nargs="+", help="several become an ensemble")
    parser.add_argument("bundle", type=Path, help="folder to write, for example models/mine")
    parser.add_argument("--calibrate", type=Path, help="folder with truth: sigma is fitted on every other image, the rest judges")
    parser.add_argument(
        "--fit-metric", type=Path, metavar="DATA", help="make metres of relative inverse depth, as training.fit_metric does"
    )
    parser.add_argument(
        "--int8", type=Path, help="folder of the robot's images: an int8 graph for TensorRT is calibrated on them"
    )
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help=CHOICES_HELP)
    parser.add_argument("--trained-on", default="unstated", help="the training data, for bundle.yaml")
    parser.add_argument("--licence", default="unstated", help="the licence of model and data, for bundle.yaml")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    options = parse(arguments)
    try:
        bundle = run(options)
    except (BundleError, ConfigError, EngineError, ExportError, InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.fit_metric:
        print(report(bundle))
    if options.int8:
        print(describe(bundle))
    if bundle.kind != "metric":
        print(
            f"note: {bundle.path} is {bundle.kind}: its depth is not in metres, so the node needs a source of scale "
            "(docs/scale.md); or give the training a source of metres (docs/training.md, Where the metres come from)",
            file=sys.stderr,
        )
    size = f"{bundle.graph_path.stat().st_size / 1e6:.1f} MB"
    print(f"{bundle.path}: {size}, sigma x {bundle.sigma_calibration:.3f}, {dict(bundle.metrics)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

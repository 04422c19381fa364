"""Judge models and other people's predictions on images with truth, beside the trivial baselines, by a named protocol.

python -m training.evaluate models/default ../shared/data/kitti2015_stereo
python -m training.evaluate runs/mine/best.ckpt DATA --set method.sigma=flip --also runs/mine/best.ckpt
python -m training.evaluate models/default DATA --also runs/mine/best.ckpt --predictions theirs=out/theirs --report out/report
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import torch

from depth_ros import bundle as bundles
from depth_ros.bundle import KINDS, BundleError, ModelBundle
from depth_ros.engines import EngineError, load_engine
from depth_ros.estimator import Estimator
from depth_ros.types import Float32Array, Frame, InputError, UInt8Array
from training.checkpoint import load_method
from training.config import ConfigError
from training.data.truth import EvaluationItem, EvaluationSet, open_evaluation_set
from training.judging.foreign import HOLDS, PredictionFolder
from training.judging.judge import Candidate, Judgement, Scores, by_scaling, judge_baselines, judge_set
from training.judging.protocols import ALLOWED, PROTOCOLS, SCALINGS, Prediction, Protocol, inverse, resized
from training.judging.report import write_json, write_report
from training.judging.tables import depth_table, format_judgements
from training.methods import CHOICES_HELP, METHODS, PARTS, Predictor
from training.methods.method import REFINED

IN_RANGE = 0.8  # of the network's largest depth, which its sigmoid never reaches: what it puts beyond is sky
DEFAULT_PROTOCOL = PROTOCOLS["kitti2015"]
NO_MODEL = "-"


class TorchEngine:
    """Runs a method in torch behind the robot's engine interface, so that checkpoints are judged by the robot's own code."""

    def __init__(self, method: Predictor) -> None:
        self.method = method.eval()

    def infer(self, image: UInt8Array) -> tuple[Float32Array, Float32Array]:
        """See depth_ros.engines.Engine."""
        with torch.no_grad():
            depth, sigma = self.method.predict(torch.from_numpy(image).permute(0, 3, 1, 2).contiguous().float() / 255)
        return depth[:, 0].numpy(), sigma[:, 0].numpy()

    def open_frame_graph(self, width: int, height: int) -> None:
        """See depth_ros.engines.Engine."""

    def describe(self) -> str:
        """See depth_ros.engines.Engine."""
        return f"torch {torch.__version__}, CPU"

    def close(self) -> None:
        """See depth_ros.engines.Engine."""


def describe_method(method: Predictor, name: str) -> ModelBundle:
    """Return what a bundle of this method would say about its graph. Raises ConfigError if it is a part of one, without depth."""
    config = method.config
    if config.method.name in PARTS:
        raise ConfigError(f"method {config.method.name} predicts no depth; expected a checkpoint of {', '.join(METHODS)}")
    fx, fy = (float(f) for f in method.focal)
    return ModelBundle(
        name=name,
        width=config.data.width,
        height=config.data.height,
        fx=fx,
        fy=fy,
        kind=method.kind,
        min_depth=config.network.min_depth,
        max_depth=IN_RANGE * config.network.max_depth,
        sigma_calibration=float(method.sigma_calibration),
        trained_on="",
        licence="",
        provenance={"mode": REFINED} if method.refined else {},
    )


def open_estimator(path: Path) -> Estimator:
    """Estimator of a metric bundle (a folder) or checkpoint (a file). Raises BundleError, EngineError or ConfigError."""
    if path.is_dir():
        bundle = bundles.load(path)
        return Estimator(bundle, load_engine(bundle))
    method = load_method(path)
    return Estimator(describe_method(method, path.stem), TorchEngine(method))


@dataclass(frozen=True)
class Model:
    """A bundle or checkpoint as a candidate, run by the robot's own code."""

    estimator: Estimator
    kind: str = "metric"

    def predict(self, item: EvaluationItem, protocol: Protocol) -> Prediction:
        """See training.judging.Candidate."""
        prediction = self._predict(item.frame)
        if protocol.flip:
            frame = item.frame
            camera = replace(frame.camera, cx=frame.camera.width - 1 - frame.camera.cx)
            mirrored = self._predict(Frame(np.ascontiguousarray(frame.image[:, ::-1]), camera, 0, frame.frame_id))
            prediction = post_process(prediction, mirrored)
        return resized(prediction, item.truth.shape, protocol.disparity_first)

    def _predict(self, frame: Frame) -> Prediction:
        found = self.estimator.predict([frame])[0]
        return Prediction(found.depth, found.sigma)


def open_model(path: Path, changes: Sequence[str] = ()) -> Model:
    """A bundle, or a checkpoint with `changes` as in load_method(), of any kind. Raises BundleError, EngineError or ConfigError.

    The robot takes depth that is not metric with a source of scale only; here it is aligned with the truth. Its depth range is in
    no unit, so nothing is out of range.
    """
    if path.is_dir():
        if changes:
            raise ConfigError(f"--set {changes[0]}: {path} is a bundle, made with its choices; expected a checkpoint")
        bundle = bundles.load(path)
        engine = load_engine(bundle)
    else:
        method = load_method(path, changes)
        bundle, engine = describe_method(method, path.stem), TorchEngine(method)
    if bundle.kind == "metric":
        return Model(Estimator(bundle, engine))
    return Model(Estimator(replace(bundle, kind="metric", min_depth=0.0, max_depth=math.inf), engine), bundle.kind)


def post_process(prediction: Prediction, mirrored: Prediction) -> Prediction:
    """Mean disparity of a prediction and of the mirrored image's, which takes over at its better side of each border.

    Ramps over 5 % of the width, from 5 to 10 %, as in Monodepth (Godard et al., CVPR 2017); sigma is mixed alike.
    """
    x = np.linspace(0, 1, prediction.depth.shape[1])
    left = 1 - np.clip(20 * (x - 0.05), 0, 1)  # where the plain prediction does not see what the mirrored one does
    right = left[::-1]
    plain_weight = right + (1 - left - right) / 2

    def mix(plain: Float32Array, other: Float32Array) -> Float32Array:
        other = other[:, ::-1]  # and where only one of the two states a value, that one
        plain, other = np.where(np.isnan(plain), other, plain), np.where(np.isnan(other), plain, other)
        values: Float32Array = (plain_weight * plain + (1 - plain_weight) * other).astype(np.float32)
        return values

    disparity = mix(inverse(prediction.depth), inverse(mirrored.depth))
    depth = np.divide(np.float32(1), disparity, where=disparity != 0, out=np.full_like(disparity, np.inf))
    if prediction.sigma is None or mirrored.sigma is None:
        return Prediction(depth)
    return Prediction(depth, mix(prediction.sigma, mirrored.sigma))


def evaluate(estimator: Estimator, dataset: EvaluationSet, protocol: Protocol = DEFAULT_PROTOCOL) -> Scores:
    """Mean scores of a metric model over the images of a set. Raises InputError if there is nothing to judge."""
    return judge_set(Model(estimator), dataset, protocol).scores


def evaluate_baselines(dataset: EvaluationSet, protocol: Protocol = DEFAULT_PROTOCOL) -> dict[str, Scores]:
    """Scores of a constant depth and of the set's own leave-one-out mean maps: the bar that any model has to clear."""
    return {name: judgement.scores for name, judgement in judge_baselines(dataset, protocol).items()}


def format_table(name: str, rows: Mapping[str, Scores], protocol: Protocol = DEFAULT_PROTOCOL) -> str:
    """A table of the scores of metric models as text, with its protocol."""
    return depth_table(name, rows, dict.fromkeys(rows, protocol.scaling), protocol)


def choose_protocol(options: argparse.Namespace) -> Protocol:
    """The preset with what the command line changes. Raises ConfigError."""
    preset = PROTOCOLS[options.protocol]
    protocol = replace(preset, flip=options.flip or preset.flip, scaling=options.scaling or preset.scaling)
    if options.cap is None:
        return protocol
    if not options.cap > protocol.clamp_min_m:
        raise ConfigError(f"--cap {options.cap:g}: expected metres, more than {protocol.clamp_min_m:g}")
    return protocol.capped(options.cap)


def open_models(options: argparse.Namespace) -> dict[str, Candidate]:
    """MODEL with what --set chooses, and each of --also, by name. Raises BundleError, EngineError or ConfigError."""
    chosen: list[tuple[str, Sequence[str]]] = [(path, ()) for path in options.also]
    if options.model != NO_MODEL:
        chosen.insert(0, (options.model, options.set))
    elif options.set:
        raise ConfigError(f"--set {options.set[0]}: chooses for MODEL, which is {NO_MODEL}; expected a checkpoint")
    models: dict[str, Candidate] = {}
    for path, changes in chosen:
        model = open_model(Path(path), changes)
        mode = model.estimator.bundle.provenance.get("mode")
        notes = [mode, *changes] if mode else changes
        models[f"{path} ({', '.join(notes)})" if notes else path] = model
    return models


def open_candidates(options: argparse.Namespace) -> dict[str, Candidate]:
    """Rows of the table by name. Raises BundleError, EngineError, ConfigError or InputError."""
    candidates = open_models(options)
    if options.predictions and len(options.data) > 1:
        raise ConfigError(f"--predictions belong to one set; found {len(options.data)}: judge them one after the other")
    for value in options.predictions:
        name, equals, folder = value.partition("=")
        if not (name and equals and folder):
            raise ConfigError(f"--predictions {value}: expected NAME=FOLDER, for example monodepth2=out/predictions")
        if name in candidates:
            raise ConfigError(f"--predictions {value}: the name '{name}' is taken; expected another")
        candidates[name] = PredictionFolder(Path(folder), options.kind, options.holds, options.scale, options.resize)
    if options.scaling:
        for name, candidate in candidates.items():
            if options.scaling not in ALLOWED[candidate.kind]:
                raise ConfigError(
                    f"--scaling {options.scaling}: {name} is {candidate.kind}; expected {' or '.join(ALLOWED[candidate.kind])}"
                )
    return candidates


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="training.evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help=f"bundle folder or checkpoint; {NO_MODEL} for the baselines and --predictions alone")
    add("data", type=Path, nargs="+", metavar="DATA", help="sets with truth; a table for each, and for each scaling")
    add("--also", action="append", default=[], metavar="MODEL", help="one more bundle or checkpoint (may be repeated)")
    add("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help=f"for MODEL, a checkpoint: {CHOICES_HELP}")
    predictions = parser.add_argument_group("predictions of other models")
    add = predictions.add_argument
    add("--predictions", action="append", default=[], metavar="NAME=FOLDER", help="16-bit PNG or npy (may be repeated)")
    add("--kind", choices=KINDS, default="metric", help="what --predictions are true up to (default: metric)")
    add("--holds", choices=HOLDS, default="depth", help="what the files hold (default: depth); disparity: inverse depth")
    add("--scale", type=float, default=1.0, help="stored value of one metre, or of 1 / metre (default: 1)")
    add("--resize", action="store_true", help="files of any size show the whole image, at a network's resolution")
    judging = parser.add_argument_group("judging")
    add = judging.add_argument
    add("--protocol", choices=PROTOCOLS, default=DEFAULT_PROTOCOL.name, help=f"preset (default: {DEFAULT_PROTOCOL.name})")
    add("--scaling", choices=SCALINGS, help="instead of the preset's; each kind of depth allows some")
    add("--cap", type=float, metavar="M", help="largest truth and prediction [m] instead of the preset's")
    add("--flip", action="store_true", help="flip post-processing")
    add("--source", default="folder", help="layout of DATA, a name of data.source (default: folder)")
    add("--split", default="", help="data.split of that source")
    add("--truth", default="", help="data.truth of that source")
    add("--half", type=int, choices=(0, 1), help="judge only every other image, from this index on")
    add("--json", type=Path, help="also write everything to this file")
    add("--report", type=Path, metavar="DIR", help="also write DIR/<set>.html with figures and DIR/report.json")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    options = parse(arguments)
    results: dict[str, dict[str, Judgement]] = {}
    try:
        protocol = choose_protocol(options)
        groups = by_scaling(open_candidates(options), protocol)
        for folder, (used, candidates) in product(options.data, groups.items()):
            dataset = open_evaluation_set(folder, options.source, options.split, options.truth)
            if options.half is not None:
                dataset = dataset.every_second(options.half)
            if len(groups) > 1:
                dataset = replace(dataset, name=f"{dataset.name}, {used.scaling}")
            if dataset.name in results:
                raise ConfigError(f"{folder}: a set called '{dataset.name}' was judged before; expected sets of different names")
            rows = judge_baselines(dataset, used)
            rows |= {name: judge_set(candidate, dataset, used) for name, candidate in candidates.items()}
            print(format_judgements(dataset.name, rows, used))
            results[dataset.name] = rows
            if options.report:
                write_report(options.report, dataset, rows, candidates, used)
        for file in filter(None, (options.json, options.report and options.report / "report.json")):
            write_json(file, results, protocol)
    except (BundleError, ConfigError, EngineError, InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

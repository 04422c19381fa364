"""Judge a bundle or a checkpoint on images with truth, beside the trivial baselines.

python -m training.evaluate models/default ../shared/data/kitti2015_stereo
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from depth_ros import bundle as bundles
from depth_ros import metrics
from depth_ros.bundle import BundleError, ModelBundle
from depth_ros.engines import EngineError, load_engine
from depth_ros.estimator import Estimator, upsample
from depth_ros.truth import PROTOCOL, judge
from depth_ros.types import DepthPrediction, Float32Array, Float64Array, InputError, UInt8Array
from training.checkpoint import load_method
from training.config import ConfigError
from training.data.truth import EvaluationSet, open_evaluation_set
from training.methods import Method

COLUMNS = (
    "abs_rel",
    "abs_rel_median_scaled",
    "rmse",
    "delta1",
    "ause_abs_rel",
    "aurg_abs_rel",
    "coverage_1sigma",
    "coverage_2sigma",
)
POOLING = 0.025  # of the width: smooths the mean map of a small set, a stricter baseline
IN_RANGE = 0.8  # of the network's largest depth, which its sigmoid never reaches: what it puts beyond is sky
Scores = dict[str, float]


class TorchEngine:
    """Runs a method in torch behind the robot's engine interface, so that checkpoints are judged by the robot's own code."""

    def __init__(self, method: Method) -> None:
        self.method = method.eval()

    def infer(self, image: UInt8Array) -> tuple[Float32Array, Float32Array]:
        """See depth_ros.engines.Engine."""
        with torch.no_grad():
            depth, sigma = self.method.predict(torch.from_numpy(image).permute(0, 3, 1, 2).contiguous().float() / 255)
        return depth[:, 0].numpy(), sigma[:, 0].numpy()

    def describe(self) -> str:
        """See depth_ros.engines.Engine."""
        return f"torch {torch.__version__}, CPU"

    def close(self) -> None:
        """See depth_ros.engines.Engine."""


def describe_method(method: Method, name: str) -> ModelBundle:
    """Return what a bundle of this method would say about its graph."""
    config = method.config
    fx, fy = (float(f) for f in method.focal)
    return ModelBundle(
        name=name,
        width=config.data.width,
        height=config.data.height,
        fx=fx,
        fy=fy,
        kind="metric" if method.metric else "scale_invariant",
        min_depth=config.network.min_depth,
        max_depth=IN_RANGE * config.network.max_depth,
        sigma_calibration=float(method.sigma_calibration),
        trained_on="",
        licence="",
    )


def open_estimator(path: Path) -> Estimator:
    """Estimator of a bundle (a folder) or a checkpoint (a file). Raises BundleError, EngineError or ConfigError."""
    if path.is_dir():
        bundle = bundles.load(path)
        return Estimator(bundle, load_engine(bundle))
    method = load_method(path)
    return Estimator(describe_method(method, path.stem), TorchEngine(method))


def evaluate(estimator: Estimator, dataset: EvaluationSet) -> Scores:
    """Mean scores over the images of a set, at the camera's resolution. Raises InputError if there is nothing to judge."""
    scores = []
    for frame, truth in tqdm(dataset, desc=dataset.name, leave=False, disable=None):
        prediction = upsample(estimator.predict([frame])[0], frame.camera)
        scores.append(judge(prediction, truth))
    return mean_scores(scores, dataset)


def evaluate_baselines(dataset: EvaluationSet) -> dict[str, Scores]:
    """Scores of a constant depth and of the set's own leave-one-out mean map: the bar that any model has to clear."""
    truths = np.array([truth for _, truth in dataset])
    valid = metrics.valid_truth(truths)
    if not valid.any():
        raise _nothing_to_judge(dataset)
    constant = np.exp(np.log(truths[valid]).mean())
    maps: dict[str, Callable[[int], Float64Array]] = {
        "constant": lambda index: np.full(truths[index].shape, constant),
        "mean map": lambda index: metrics.mean_depth_map(truths, index),
        "mean map, pooled": lambda index: metrics.mean_depth_map(truths, index, POOLING),
    }
    rows = {}
    for name, depth_map in maps.items():
        scores = []
        for index, truth in enumerate(truths):
            depth = depth_map(index).astype(np.float32)
            # No sigma of its own: a constant relative one, which orders the pixels by depth.
            scores.append(judge(DepthPrediction(depth, np.float32(0.2) * depth, dataset.camera), truth))
        rows[name] = mean_scores(scores, dataset)
    return rows


def mean_scores(scores: Iterable[Scores], dataset: EvaluationSet) -> Scores:
    """Mean of each figure over the images that could be compared, and their number."""
    judged = [s for s in scores if s]
    if not judged:
        raise _nothing_to_judge(dataset)
    return {key: float(np.mean([s[key] for s in judged])) for key in judged[0]} | {"images": len(judged)}


def _nothing_to_judge(dataset: EvaluationSet) -> InputError:
    return InputError(
        f"{dataset.name}: no image has truth to compare with; expected PNGs named like the images in {dataset.truth.folder}"
    )


def format_table(name: str, rows: dict[str, Scores]) -> str:
    """A table of scores as text, with its protocol."""
    count = next(iter(rows.values()))["images"]
    lines = [f"{name}: {count} images. {PROTOCOL}. Raw metres unless median_scaled."]
    width = max(len(row) for row in rows)
    lines.append(" ".join([" " * width] + [f"{c:>{max(8, len(c))}}" for c in COLUMNS]))
    for row, scores in rows.items():
        lines.append(" ".join([f"{row:{width}}"] + [f"{scores[c]:>{max(8, len(c))}.3f}" for c in COLUMNS]))
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="training.evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="bundle folder or checkpoint")
    parser.add_argument("data", type=Path, nargs="+", help="folders with meta.json, images and truth")
    parser.add_argument("--half", type=int, choices=(0, 1), help="judge only every other image, from this index on")
    parser.add_argument("--json", type=Path, help="also write the scores to this file")
    options = parser.parse_args(arguments)
    results = {}
    try:
        estimator = open_estimator(options.model)
        for folder in options.data:
            dataset = open_evaluation_set(folder)
            if options.half is not None:
                dataset = dataset.every_second(options.half)
            rows = {**evaluate_baselines(dataset), str(options.model): evaluate(estimator, dataset)}
            print(format_table(dataset.name, rows))
            results[dataset.name] = rows
        if options.json:
            options.json.write_text(json.dumps({"protocol": PROTOCOL, "results": results}, indent=2), encoding="utf-8")
    except (BundleError, ConfigError, EngineError, InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

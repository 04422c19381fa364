"""Make metres of a bundle of relative inverse depth: one scale and shift, fitted on images with truth, go into its graph.

python -m training.fit_metric models/midas models/midas_street ../shared/data/kitti2015_stereo

Every other image fits, the rest judges. Exit code: 0 if the bundle was written, 1 if not: docs/bring_your_own.md.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx

from depth_ros import bundle as bundles
from depth_ros.bundle import BundleError, ModelBundle
from depth_ros.engines import EngineError, load_engine
from depth_ros.estimator import focal_factor
from depth_ros.types import Float64Array, InputError
from training.bundle_writing import PARITY, ExportError, difference, draft_of, probe_images, stated
from training.calibration import ONE_SIGMA, predictions, running, sigma_factor, weighted_quantile
from training.config import ConfigError
from training.data.truth import EvaluationSet, open_evaluation_set
from training.evaluate import evaluate
from training.importing.composing import around
from training.judging.protocols import least_squares

PIXELS = 20_000  # of an image that are fitted, evenly spread
TUKEY = 4.685  # standard deviations beyond which an error has no weight
NORMAL_MAD = 1.4826  # standard deviation of a normal distribution over its median absolute deviation
STEPS = 50
LARGE_SCATTER = 0.25  # of the images' own scales, beyond which one for all is hardly one
TEXT = """aligned (uint8[{N}, {h}, {w}, 3] image) => (float[{N}, {h}, {w}] depth, float[{N}, {h}, {w}] sigma) {{
    relative_depth, relative_sigma = Network (image)
    inverse = Div (one, relative_depth)
    scaled = Mul (inverse, scale)
    fitted = Add (scaled, shift)
    bounded = Max (fitted, least)
    depth = Div (one, bounded)
    share = Mul (relative_sigma, inverse)
    own = Mul (share, scaled)
    own_square = Mul (own, own)
    square = Add (own_square, residual_square)
    spread = Sqrt (square)
    depth_square = Mul (depth, depth)
    deviation = Mul (spread, depth_square)
    sigma = Mul (deviation, factor)
}}"""


@dataclass(frozen=True)
class Alignment:
    """Inverse depth [1/m] = scale * relative inverse depth + shift, for the bundle's focal length."""

    scale: float
    shift: float
    residual: float  # [1/m] that ONE_SIGMA of the pixels err by less than
    scatter: float  # standard deviation over images of log(median(truth / depth))
    near: float  # [m] range of the truth, for the bundle's focal length
    far: float


@dataclass(frozen=True)
class _Pairs:
    """Relative inverse depth and true inverse depth [1/m] of one image's pixels, both for the bundle's focal length."""

    relative: Float64Array
    true: Float64Array


def fit_alignment(bundle: ModelBundle, dataset: EvaluationSet) -> Alignment:
    """The one alignment of all images of a set, each weighted alike. Raises InputError where there is none.

    Least squares in inverse depth as in Ranftl et al. (TPAMI 2022, eq. 4), but over the whole set and with Tukey's weights,
    from the medians of the images' own fits: an image that has another alignment than most does not count.
    """
    images = _pairs(bundle, dataset)
    if not images:
        raise InputError(f"{dataset.name}: no image has truth to fit metres on")
    own = [least_squares(pairs.relative, pairs.true) for pairs in images]
    scale, shift = (float(np.median(values)) for values in zip(*own, strict=True))
    relative, true = (np.concatenate([getattr(pairs, name) for pairs in images]) for name in ("relative", "true"))
    weight = np.concatenate([np.full(pairs.true.size, 1 / pairs.true.size) for pairs in images])
    for _ in range(STEPS):
        error = np.abs(true - scale * relative - shift)
        limit = TUKEY * (NORMAL_MAD * weighted_quantile(error, weight, 0.5) + 1e-6 * float(np.median(true)))
        kept = np.clip(1 - (error / limit) ** 2, 0, None) ** 2
        before, (scale, shift) = (scale, shift), least_squares(relative, true, weight * kept)
        if np.allclose(before, (scale, shift), rtol=1e-9, atol=0):
            break
    if not scale > 0:
        raise InputError(
            f"{dataset.name}: the fitted scale of {bundle.name} is {scale:.3g}; expected a positive one: its output is no "
            "relative inverse depth, or has nothing to do with these images"
        )
    error = np.abs(true - scale * relative - shift)
    ratios = [math.log(np.median(np.maximum(scale * p.relative + shift, 1e-9) / p.true)) for p in images]
    near, far = float(1 / true.max()), float(1 / true.min())
    return Alignment(scale, shift, weighted_quantile(error, weight, ONE_SIGMA), float(np.std(ratios)), near, far)


def _pairs(bundle: ModelBundle, dataset: EvaluationSet) -> list[_Pairs]:
    """Of each image that has truth.

    A picture is of things k times as far away through k times the focal length (estimator.focal_factor): k is taken out of the
    truth and out of what the estimator has multiplied by it, and the node multiplies the metres again.
    """
    raw = replace(bundle, kind="metric", min_depth=1e-30, max_depth=math.inf)
    found = []
    with running(raw) as estimator:
        for item, prediction, valid in predictions(estimator, dataset):
            factor = focal_factor(item.frame.camera.resized(bundle.width, bundle.height), bundle)
            chosen = np.flatnonzero(valid)[:: max(1, int(valid.sum()) // PIXELS)]
            depth, truth = (values.ravel()[chosen].astype(np.float64) for values in (prediction.depth, item.truth))
            found.append(_Pairs(factor / depth, factor / truth))
    return found


def aligned(bundle: ModelBundle, alignment: Alignment, factor: float) -> onnx.ModelProto:
    """The bundle's graph with metres: depth 1 / (scale r + shift), at least beyond the range where that is not positive.

    Sigma is `factor` times that of r and the residual of the fit, in quadrature, to first order.
    """
    core = onnx.load(bundle.graph_path)
    count = core.graph.input[0].type.tensor_type.shape.dim[0].dim_value or "N"
    constants = {
        "one": 1.0, "scale": alignment.scale, "shift": alignment.shift, "least": 0.5 / alignment.far,
        "residual_square": alignment.residual**2, "factor": factor,
    }  # fmt: skip
    text = TEXT.format(N=count, h=bundle.height, w=bundle.width)
    return around(core, ("depth", "sigma"), text, {name: np.float32(value) for name, value in constants.items()})


def check_parity(bundle: ModelBundle, made: ModelBundle, alignment: Alignment, factor: float) -> None:
    """Raise ExportError unless the metric graph is what NumPy makes of the relative one's answers."""
    images = probe_images(bundle)
    with closing(load_engine(bundle)) as relative, closing(load_engine(made)) as metric:
        depth, sigma = (values.astype(np.float64) for values in relative.infer(images))
        fitted = 1 / np.maximum(alignment.scale / depth + alignment.shift, 0.5 / alignment.far)
        spread = factor * fitted**2 * np.hypot(alignment.scale * sigma / depth**2, alignment.residual)
        found = difference(metric.infer(images), (fitted.astype(np.float32), spread.astype(np.float32)))
    if not found < PARITY:
        raise ExportError(f"{made.name}: its metres differ from the fit by {found:.2g} relative; expected below {PARITY:g}")


def check_relative(kind: str, source: Path) -> None:
    """Raise InputError for what has no scale and shift to fit."""
    if kind != "affine_invariant":
        raise InputError(f"{source}: kind is '{kind}'; expected affine_invariant, which has a scale and a shift")


def fit_metric(bundle: ModelBundle, folder: Path, dataset: EvaluationSet) -> ModelBundle:
    """Write the metric bundle of an affine_invariant one into `folder`, which stays as it was if something is raised.

    Raises InputError for another kind or a set without truth, ExportError if the new graph is not what it should be.
    """
    check_relative(bundle.kind, bundle.path)
    fitting, judging = dataset.every_second(0), dataset.every_second(1)
    alignment = fit_alignment(bundle, fitting)
    stored = {
        "fit_metric": dataset.name, "fit_scale": f"{alignment.scale:.6g}", "fit_shift": f"{alignment.shift:.6g}",
        "fit_residual": f"{alignment.residual:.4g}", "fit_scatter": f"{alignment.scatter:.3f}",
    }  # fmt: skip
    description = replace(
        bundle, name=folder.name, kind="metric", min_depth=alignment.near / 2, max_depth=alignment.far, metrics={}, int8={},
        provenance={**bundle.provenance, **stored},
    )  # fmt: skip
    with draft_of(folder) as draft:
        onnx.save(aligned(bundle, alignment, 1.0), draft / "model.onnx")
        with running(bundles.save(description, draft)) as uncalibrated:
            factor = sigma_factor(uncalibrated, fitting)
        onnx.save(aligned(bundle, alignment, factor), draft / "model.onnx")
        made = bundles.save(replace(description, sigma_calibration=bundle.sigma_calibration * factor), draft)
        check_parity(bundle, made, alignment, factor)
        with running(made) as estimator:
            bundles.save(replace(made, metrics=stated(evaluate(estimator, judging))), draft)
    return bundles.load(folder)


def report(bundle: ModelBundle) -> str:
    """What the fit is, for those who will trust it."""
    p = bundle.provenance
    text = (
        f"{bundle.path}: metres fitted on {p['fit_metric']}: 1 / depth = {p['fit_scale']} r + {p['fit_shift']} [1/m], "
        f"residual {p['fit_residual']} 1/m; from image to image the scale differs by {float(p['fit_scatter']):.0%}"
    )
    if float(p["fit_scatter"]) > LARGE_SCATTER:
        text += (
            f"\nwarning: that is over {LARGE_SCATTER:.0%}: the model's own scale changes with what it sees, and no one fit makes "
            "true metres of it; measure the scale while driving instead (docs/scale.md, scale.source: range)"
        )
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="training.fit_metric", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path, help="an affine_invariant bundle")
    parser.add_argument("made", type=Path, help="folder to write; may be the same")
    parser.add_argument("data", type=Path, help="set with truth, as training.evaluate takes it")
    options = parser.parse_args(arguments)
    try:
        bundle = fit_metric(bundles.load(options.bundle), options.made, open_evaluation_set(options.data))
    except (BundleError, ConfigError, EngineError, ExportError, InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(report(bundle))
    print(f"{bundle.path}: sigma x {bundle.sigma_calibration:.3f}, {dict(bundle.metrics)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

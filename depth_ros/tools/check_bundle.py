"""Check a bundle before it goes onto a robot: read it as the node does, run it, and see that what comes out is depth.

An engine may still calculate otherwise than the bundle's graph: check_engine compares the two. Whether the depth is true only
images with truth can say: make demo TRUTH=... Exit code: 0 if every check passes, 1 if one does not or the bundle cannot be run.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from depth_ros import bundle
from depth_ros.bundle import BundleError, ModelBundle
from depth_ros.engines import Engine, EngineError, one_line
from depth_ros.engines.gate import Answer, bits_differ, finite, frames_folder, in_range, load_frames, one_by_one, reason
from depth_ros.estimator import Estimator
from depth_ros.scale import choices
from depth_ros.tools.engine_arguments import add_choice_arguments, add_device_arguments, check_json, choose, path, write_json
from depth_ros.tools.timing import percentiles, time_calls
from depth_ros.types import InputError, UInt8Array

TIMED_S = 2.0


@dataclass(frozen=True)
class Check:
    """One thing that a bundle has to be."""

    name: str
    passed: bool
    found: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    if options.build_if_missing:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # as in build_engine
    try:
        model = bundle.load(options.folder)
        folder: Path = options.frames or frames_folder(model)
        frames = load_frames(model, folder)
        check_json(options.json)
        print(describe(model), flush=True)
        choice = choose(model, options, _say)
        with closing(choice.engine) as engine:
            print(f"on {engine.describe()}; {len(frames)} images of {folder}", flush=True)
            checks = list(examine(engine, model, frames))
            times, _ = time_calls(lambda number: engine.infer(frames[number % len(frames)][None]), TIMED_S)
        ms = percentiles(1000 * np.array(times))
        for check in checks:
            print(f"  {'ok' if check.passed else 'FAILED':8}{check.name:12}{check.found}")
        print(f"  {'':8}{'time':12}{ms['p50']:.1f} ms an image (median), {ms['p95']:.1f} ms (95 %)")
        if options.json:
            facts = {"model": model.name, "sha256": model.sha256, "engine": choice.name, "ms": ms}
            write_json(options.json, facts | {"checks": [asdict(check) for check in checks]})
    except (BundleError, EngineError, InputError, OSError) as error:
        _say(one_line(error))
        return 1
    failed = [check.name for check in checks if not check.passed]
    print(f"FAILED: {', '.join(failed)}" if failed else "passed")
    return 1 if failed else 0


def describe(model: ModelBundle) -> str:
    """What the bundle says of itself."""
    size = model.graph_path.stat().st_size / 1e6
    return "\n".join(
        (
            f"model '{model.name}' in {model.path}",
            f"  {model.kind}, {model.width}x{model.height}, focal lengths {model.fx:.1f} and {model.fy:.1f} px, "
            f"depth from {model.min_depth:g} to {model.max_depth:g} m",
            f"  trained on {model.trained_on}",
            f"  licence    {model.licence}",
            f"  model.onnx {size:.1f} MB, sha256 {model.sha256}",
        )
    )


def examine(engine: Engine, model: ModelBundle, frames: UInt8Array) -> Iterator[Check]:
    """Check the bundle on `engine` with RGB images (N, height, width, 3) of its size.

    Raises EngineError if it does not run, or if an answer has not the contract's shape or type.
    """
    try:
        first, again = one_by_one(engine, frames), one_by_one(engine, frames)
    except Exception as error:  # each backend raises classes of its own
        raise EngineError(f"model '{model.name}' does not run: {reason(error)}") from error
    yield _check_kind(engine, model)
    numbers = finite(first)
    yield Check("numbers", bool(numbers.all()), f"{_percent(numbers)} of the pixels have a depth and a sigma that are finite")
    yield _check_range(first, model)
    yield _check_sigma(first, model)
    differ = int(np.count_nonzero(bits_differ(first, again)))
    yield Check("repeatable", not differ, f"{differ} pixels of {numbers.size} differ when the same image comes again")
    if len(frames) > 1:
        other = np.roll(np.arange(len(frames)), 1)
        blind = [i for i in range(len(frames)) if not bits_differ(*_pair(first, i, int(other[i]))).any()]
        yield Check("sees", not blind, f"{len(blind)} images of {len(frames)} have the depth of another image")


def _check_kind(engine: Engine, model: ModelBundle) -> Check:
    try:
        Estimator(model, engine)
    except BundleError:  # what the node says with its default, scale.source: bundle
        return Check("kind", True, f"{model.kind}: no metres by itself, the node needs scale.source: {choices(model.kind)}")
    return Check("kind", True, f"{model.kind}: the node publishes it as it is")


def _check_range(answer: Answer, model: ModelBundle) -> Check:
    """Every image has something in the bundle's range, beyond which the node publishes nothing or +inf."""
    inside = in_range(answer, model)
    shares = inside.mean(axis=(1, 2))
    found = f"{_percent(inside)} of the pixels are in the bundle's range, {shares.min():.0%} of those of the worst image"
    if inside.any():
        low, high = np.quantile(answer[0][inside], (0.01, 0.99))
        found += f"; depth {low:.3g} to {high:.3g} m (1 and 99 %)"
    return Check("range", bool(shares.min() > 0), found)


def _check_sigma(answer: Answer, model: ModelBundle) -> Check:
    """The node publishes no depth without a positive sigma."""
    inside = in_range(answer, model)
    positive = inside & (answer[1] > 0)
    found = f"positive at {int(np.count_nonzero(positive))} of {int(np.count_nonzero(inside))} pixels in range"
    if positive.any():
        found += f"; {np.median(answer[1][positive] / answer[0][positive]):.0%} of the depth (median)"
    return Check("sigma", bool((positive == inside).all()), found)


def _pair(answer: Answer, first: int, second: int) -> tuple[Answer, Answer]:
    depth, sigma = answer
    return (depth[first][None], sigma[first][None]), (depth[second][None], sigma[second][None])


def _percent(mask: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> str:
    return f"{100 * mask.mean():.4g} %"


def _say(text: str) -> None:
    print(f"check_bundle: {text}", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="check_bundle", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("folder", type=path, help="folder with model.onnx and bundle.yaml")
    add_choice_arguments(parser)
    add_device_arguments(parser)
    add("--frames", type=path, help="folder of images, best of the robot's own camera (default: those that come with the model)")
    add("--json", type=path, metavar="FILE", help="write what was found")
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""Build the TensorRT engine of a model for this machine's GPU, compare it with ONNX Runtime, and keep it for the node.

Takes a minute or several. Where the precision asked for gives wrong depth, fp32 is built instead. Exit code: 0 if there is an
engine to use now, 1 if not.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any

from depth_ros import bundle
from depth_ros.bundle import BundleError, ModelBundle
from depth_ros.engines import ENGINES, EngineError, EngineOptions, MissingBackendError, one_line
from depth_ros.engines.plan_keys import PRECISIONS
from depth_ros.engines.plans import Plan
from depth_ros.tools.engine_arguments import add_engine_arguments, default_model, engine_options, positive
from depth_ros.types import InputError

TENSORRT = tuple(name for name in ENGINES if name.startswith("tensorrt"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends a build at once: Python's exception cannot pass through TensorRT
    try:
        model = bundle.load(options.model or default_model())
        for plan in build(model, engine_options(options, _say), options.engine, options.frame, options.force):
            print(describe(model, plan), flush=True)
    except MissingBackendError as error:
        _say(f"{options.engine}: {error}")
        return 1
    except (BundleError, EngineError, InputError, OSError) as error:
        _say(one_line(error))
        return 1
    return 0


def build(
    model: ModelBundle, options: EngineOptions, engine: str, frames: Sequence[tuple[int, int]], force: bool
) -> Iterator[Plan]:
    """The plan of the network, then one for every size of image [px] that the device is to resize itself, each once it is built.

    Raises EngineError.
    """
    backend = import_module(ENGINES[engine])
    trt = backend.import_tensorrt(engine)
    device = backend.find_device(trt, options)
    for frame in (None, *frames):
        yield backend.build(trt, model, options, device, frame, force)


def describe(model: ModelBundle, plan: Plan) -> str:
    """What a plan is, where it lies, how long it took, and its figures in the numeric gate."""
    key, details = plan.key, plan.details
    what = f"whole frames of {key.frame} images" if key.frame else f"{model.width}x{model.height}"
    lines = [
        f"model '{model.name}', {what}, {key.precision}, batch {key.batch}, {key.backend} {key.version}, {key.gpu}",
        f"  {plan.path}",
        f"  {len(plan.data) / 1e6:.1f} MB, built in {details['build_seconds']:.0f} s, {details['built']}",
        f"  {_figures(details['gate'])}",
    ]
    if plan.refused:
        lines.append(f"  {plan.refused}")
    return "\n".join(lines)


def _figures(gate: Mapping[str, Any]) -> str:
    limits = gate["limits"]
    figures = (f"{name.replace('_', ' ')} {value:.2g} (limit {limits[name]:g})" for name, value in gate["figures"].items())
    return f"against ONNX Runtime on {gate['frames']} images: {', '.join(figures)}"


def _say(text: str) -> None:
    print(f"build_engine: {text}", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="build_engine", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_engine_arguments(parser, "also for whole images of this size, which the GPU then resizes itself")
    add = parser.add_argument
    add("--engine", default=TENSORRT[0], choices=TENSORRT, help="default: %(default)s")
    add("--precision", choices=PRECISIONS, help=f"default: {PRECISIONS[0]}")
    add("--workspace-mb", type=positive, metavar="MB", help=f"memory of the builder (default: {EngineOptions().workspace_mb})")
    add("--force", action="store_true", help="build again what is there already, or was refused")
    return parser


if __name__ == "__main__":
    sys.exit(main())

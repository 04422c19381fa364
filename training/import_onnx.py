"""Wrap a published ONNX depth network into a model bundle: all it wants done to an image goes into the graph, parity checked.

python -m training.import_onnx midas_small.onnx models/midas --like midas --sigma flip
python -m training.import_onnx metric3d_vit_small.onnx models/metric3d --like metric3d --sigma fit:../shared/data/kitti2015_stereo
python -m training.import_onnx any.onnx models/any --like depth --mean 0.5 --std 0.5 --size 640x480 --camera 520,520

Exit code: 0 if the bundle was written, 1 if not: docs/bring_your_own.md.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import onnx

from depth_ros.bundle import KINDS, BundleError, ModelBundle
from depth_ros.engines import EngineError
from depth_ros.types import InputError
from training.bundle_writing import ExportError, commit
from training.config import ConfigError
from training.data.truth import open_evaluation_set
from training.fit_metric import check_relative, fit_metric, report
from training.importing.making import Import, import_network, judged, notes, with_fitted_sigma
from training.importing.original import Original, read_original
from training.importing.presets import GIVES, METRES, ORDERS, PLAIN, PRESETS, UNITLESS, Colours, Interface
from training.importing.sigma import Constant, parse_sigma

T = TypeVar("T")
COLOURS = "one number, or three of red, green, blue"
OVERRIDES = ("gives", "kind", "mean", "std", "levels", "order", "channel", "factor", "range")  # of Interface, by options


def choose_interface(options: argparse.Namespace, original: Original) -> Interface:
    """The preset with what the command line changes, and without colours that the file brings into range itself.

    Raises InputError where one channel of several has to be chosen, or one is that is not there.
    """
    if not (options.channel is None and original.channels == 1) and options.channel not in range(original.channels):
        raise InputError(
            f"{original.file}: output '{original.output}' {original.shape} has {original.channels} channels, and --channel is "
            f"{'not given' if options.channel is None else options.channel}; expected one from 0 to {original.channels - 1}"
        )
    given = {key: getattr(options, key) for key in OVERRIDES if getattr(options, key) is not None}
    preset = PRESETS[options.like]
    if given.get("kind", preset.kind) != preset.kind:  # its depth is in another unit
        given = {"range": METRES if given["kind"] == "metric" else UNITLESS} | given
    interface = replace(preset, **given)
    if not {"mean", "std"} & given.keys() and (interface.mean, interface.std) != PLAIN and original.normalises:
        _note(
            f"{original.file.name} begins with arithmetic on its colours, so mean and std are taken to be inside it; if they are "
            "not, state them: --mean, --std"
        )
        return replace(interface, mean=PLAIN[0], std=PLAIN[1])
    return interface


def stated_focal(options: argparse.Namespace, interface: Interface) -> tuple[float, float] | None:
    """Focal lengths of the training camera [px], if anything states them."""
    canonical = options.focal_rule or interface.canonical
    return options.camera or ((canonical, canonical) if canonical else None)


def choose_focal(options: argparse.Namespace, original: Original, interface: Interface) -> tuple[float, float]:
    """Focal lengths of the training camera [px]. Raises InputError where metres need them and nothing states them."""
    focal = stated_focal(options, interface)
    if focal is None and interface.kind == "metric":
        raise InputError(
            f"{original.file}: metres hold for one focal length, and none is stated; expected --camera FX,FY of the training "
            f"camera at {original.width}x{original.height}, or --focal-rule canonical:F"
        )
    return focal or (float(original.width), float(original.width))  # the scale of other kinds is measured anyway


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)


def _stated(convert: Callable[[str], T], expected: str) -> Callable[[str], T]:
    """A type of an option that says what was found and expected where `convert` raises ValueError."""

    def read(text: str) -> T:
        try:
            return convert(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"found '{text}'; expected {expected}") from None

    return read


def _number(text: str, least: float = -math.inf) -> float:
    if not least < float(text) < math.inf:
        raise ValueError
    return float(text)


_positive = partial(_number, least=0.0)


def _pair(text: str) -> tuple[float, float]:
    first, second = map(_positive, text.split(","))
    return first, second


def _range(text: str) -> tuple[float, float]:
    low, high = _pair(text)
    if not low < high:
        raise ValueError
    return low, high


def _colours(text: str, read: Callable[[str], float] = _number) -> Colours:
    values = [read(part) for part in text.split(",")]
    red, green, blue = values * 3 if len(values) == 1 else values
    return red, green, blue


def _size(text: str) -> tuple[int, int]:
    width, height = map(int, text.split("x"))
    if min(width, height) < 1:
        raise ValueError
    return width, height


def _canonical(text: str) -> float:
    if not text.startswith("canonical:"):
        raise ValueError
    return _positive(text.removeprefix("canonical:"))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="training.import_onnx", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, positive = parser.add_argument, _stated(_positive, "a number above 0")
    add("file", type=Path, help="ONNX file, with files of weights beside it if it has any")
    add("bundle", type=Path, help="folder to write, for example models/mine")
    add("--like", choices=PRESETS, required=True, help="how it takes images and what it gives; the options below change parts")
    add("--gives", choices=GIVES, help="depth, or inverse depth (disparity)")
    add("--kind", choices=KINDS, help="what that is true up to")
    add("--factor", type=positive, help="metres, or 1 / metres of inverse depth, of one unit of the output")
    limits = _stated(_range, "MIN,MAX with 0 < MIN < MAX")
    add("--range", type=limits, metavar="MIN,MAX", help="depth that counts, in the bundle's unit; nothing is in range beyond")
    add("--output", default="", help="name of the output, where the file has several")
    add("--channel", type=int, help="of that output, where it has several: 2 for points x, y, z")
    add("--levels", type=positive, help="white before mean and std: 1 or 255")
    mean, std = _stated(_colours, COLOURS), _stated(partial(_colours, read=_positive), f"{COLOURS}, above 0")
    add("--mean", type=mean, metavar="R,G,B", help="subtracted from the colours, red first whatever --order says")
    add("--std", type=std, metavar="R,G,B", help="the colours are divided by")
    add("--order", choices=ORDERS, help="of the colours")
    add("--size", type=_stated(_size, "WxH in whole pixels above 0"), metavar="WxH", help="[px] for a file that leaves it open")
    focal = parser.add_mutually_exclusive_group().add_argument
    camera, rule = _stated(_pair, "FX,FY, both above 0"), _stated(_canonical, "canonical:F with F above 0")
    focal("--camera", type=camera, metavar="FX,FY", help="[px] focal lengths of the training camera at the network's size")
    focal("--focal-rule", type=rule, metavar="canonical:F", help="metres are of a camera of F px, whatever the camera")
    add("--sigma", default="constant", help="constant:SHARE (default: 0.2), flip[:FLOOR], or fit:DATA with truth")
    add("--fit-metric", type=Path, metavar="DATA", help="make metres of relative inverse depth: training.fit_metric")
    add("--trained-on", default="unstated", help="the training data, for bundle.yaml")
    add("--licence", default="unstated", help="the licence of model and data, for bundle.yaml")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> ModelBundle:
    """Import as the command line says. Raises InputError, ExportError, BundleError, EngineError or ConfigError."""
    sigma, preset = parse_sigma(options.sigma), PRESETS[options.like]
    original = read_original(options.file, options.size, options.output, preset.outputs, stated_focal(options, preset))
    interface = choose_interface(options, original)
    provenance = {
        "file": options.file.name, "file_sha256": hashlib.sha256(options.file.read_bytes()).hexdigest(), "like": options.like,
        "commit": commit(), "onnx": onnx.__version__,
    }  # fmt: skip
    facts = {"trained_on": options.trained_on, "licence": options.licence, "provenance": provenance}
    if options.fit_metric:
        if not sigma:
            raise InputError("--sigma fit and --fit-metric both fit sigma; expected one of them")
        check_relative(interface.kind, options.file)
        dataset = open_evaluation_set(options.fit_metric)
    known = Import(interface, choose_focal(options, original, interface), sigma or Constant(), facts)
    if options.fit_metric:
        with TemporaryDirectory() as temporary:
            relative = import_network(original, Path(temporary) / "relative", known)
            return fit_metric(relative, options.bundle, dataset)
    if sigma:
        return import_network(original, options.bundle, known)
    dataset = open_evaluation_set(Path(options.sigma.partition(":")[2]))
    return judged(import_network(original, options.bundle, with_fitted_sigma(original, known, dataset)), dataset)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    options = parse(arguments)
    try:
        bundle = run(options)
        for line in notes(bundle):
            _note(line)
    except (BundleError, ConfigError, EngineError, ExportError, InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.fit_metric:
        print(report(bundle))
    print(
        f"{bundle.path}: {bundle.kind}, {bundle.width}x{bundle.height}, focal lengths {bundle.fx:g} and {bundle.fy:g} px, "
        f"differs from {options.file.name} by {bundle.provenance['parity']}; {dict(bundle.metrics)}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

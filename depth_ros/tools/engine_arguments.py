"""What build_engine and check_engine take alike on their command lines, and the engine's options made of it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

from depth_ros.engines import MEMORIES, EngineOptions


def add_engine_arguments(parser: argparse.ArgumentParser, whole_frames: str) -> None:
    """Add --model, --batch, --frame (`whole_frames` says what for), --memory and --cache."""
    defaults = EngineOptions()
    add = parser.add_argument
    add("--model", type=path, help="folder of the bundle (default: the one that comes with the package)")
    add("--batch", type=positive, metavar="N", help=f"most images at once with TensorRT (default: {defaults.batch})")
    add("--frame", type=size, action="append", default=[], metavar="WIDTHxHEIGHT",
        help=f"{whole_frames}; may be given again")  # fmt: skip
    add("--memory", choices=MEMORIES, help=f"what manages CUDA memory (default: {defaults.memory})")
    add("--cache", type=path, help=f"folder of built engines (default: {defaults.cache})")


def engine_options(given: argparse.Namespace, progress: Callable[[str], None]) -> EngineOptions:
    """The options that the command line gives, each under its name in EngineOptions; the defaults where it gives none."""
    values = {field.name: getattr(given, field.name, None) for field in fields(EngineOptions)}
    return EngineOptions(**{name: value for name, value in values.items() if value is not None} | {"progress": progress})


def default_model() -> Path:
    """Folder of the bundle that comes with the package."""
    from depth_ros.ros import params  # needs ROS, which a named model does not

    return params.default_model()


def path(text: str) -> Path:
    """A path; the shell leaves the ~ of --cache=~/engines as it is."""
    return Path(text).expanduser()


def positive(text: str) -> int:
    """A whole number, 1 or more. Raises ArgumentTypeError."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}'; expected a whole number, 1 or more")
    return int(text)


def size(text: str) -> tuple[int, int]:
    """Width and height of an image [px]. Raises ArgumentTypeError."""
    width, _, height = text.partition("x")
    try:
        return positive(width), positive(height)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"'{text}'; expected WIDTHxHEIGHT [px], such as 1280x720") from None

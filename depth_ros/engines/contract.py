"""What every backend checks alike: the graph's tensors and the images against the bundle."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np

from depth_ros.bundle import ModelBundle
from depth_ros.engines import EngineError, EngineOptions
from depth_ros.types import UInt8Array

Tensors = Mapping[str, tuple[str, Sequence[int | str | None]]]  # name -> NumPy's name of the type, shape


def check_tensors(bundle: ModelBundle, inputs: Tensors, outputs: Tensors) -> None:
    """Compare a graph's tensors with the bundle; a dimension that is no number is open and fits any. Raises EngineError."""
    size = (bundle.height, bundle.width)
    for side, found, expected in (
        ("inputs", inputs, {"image": ("uint8", (*size, 3))}),
        ("outputs", outputs, {"depth": ("float32", size), "sigma": ("float32", size)}),
    ):
        if set(found) != set(expected):
            raise EngineError(f"{bundle.graph_path}: {side} are {', '.join(found)}; expected {', '.join(expected)}")
        for name, (dtype, shape) in expected.items():
            found_dtype, found_shape = found[name]
            if found_dtype != dtype or not _fits(found_shape, shape):
                raise EngineError(
                    f"{bundle.graph_path}: '{name}' is {found_dtype} {_text(found_shape)}, "
                    f"but bundle.yaml says {dtype} {_text(('N', *shape))}: export the bundle again"
                )


def check_image(bundle: ModelBundle, image: UInt8Array) -> None:
    """Raise EngineError unless the images are (N, height, width, 3) uint8."""
    shape = (bundle.height, bundle.width, 3)
    if image.shape[1:] != shape or image.dtype != np.uint8:
        raise EngineError(f"image is {image.shape} {image.dtype}; expected {_text(('N', *shape))} uint8")


def choose_precision(options: EngineOptions, known: Sequence[str]) -> str:
    """Return the precision that is asked for; the first of `known` unless one is. Raises EngineError if it is not known."""
    precision = options.precision or known[0]
    if precision not in known:
        raise EngineError(f"it has no precision '{precision}'; choose {' or '.join(known)}")
    return precision


def cpu_threads(options: EngineOptions) -> int:
    """Return the number of threads of a CPU backend: one less than there are cores unless the user chose."""
    return options.threads or max(1, len(os.sched_getaffinity(0)) - 1)


def _fits(found: Sequence[int | str | None], expected: tuple[int, ...]) -> bool:
    if len(found) != len(expected) + 1:
        return False
    pairs = zip(found, (1, *expected), strict=True)
    return all(size == wanted or not isinstance(size, int) for size, wanted in pairs)


def _text(shape: Sequence[int | str | None]) -> str:
    return f"({', '.join(map(str, shape))})"

"""Which of two points is nearer: the weighted human disagreement rate on Depth in the Wild (Chen et al., NIPS 2016).

Its annotations are pairs of lines, an image and `y_A,x_A,y_B,x_B,relation,width,height`, with pixels counted from 1. The
relation compares depths: `>` says that A is farther. All pairs weigh the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from depth_ros.types import CameraModel, Float32Array, Frame, InputError

EXPECTED = "a line with an image, then one with y_A,x_A,y_B,x_B,relation,width,height, as DIW has it"


@dataclass(frozen=True)
class Comparison:
    """Two pixels (row, column) of an image, counted from 0, of which people call the first the farther one."""

    image: str
    far: tuple[int, int]
    near: tuple[int, int]


@dataclass(frozen=True)
class Disagreement:
    """How often depth contradicts people."""

    wrong: int  # pairs in the wrong order, or without an order: equal, or one of them not answered
    pairs: int

    @property
    def rate(self) -> float:
        """WHDR, 0 to 1."""
        return self.wrong / self.pairs


def read_comparisons(file: Path) -> list[Comparison]:
    """The comparisons of an annotation file of DIW. Raises InputError, naming the line."""
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: {error}; expected {EXPECTED}") from error
    if not lines or len(lines) % 2:
        raise InputError(f"{file}: holds {len(lines)} lines; expected {EXPECTED}")
    return [_comparison(file, name, points) for name, points in zip(lines[::2], lines[1::2], strict=True)]


def _comparison(file: Path, image: str, line: str) -> Comparison:
    words = [word.strip() for word in line.split(",")]
    try:
        y_a, x_a, y_b, x_b, width, height = (int(word) for word in (*words[:4], *words[5:]))
        inside = min(y_a, x_a, y_b, x_b) >= 1 and max(y_a, y_b) <= height and max(x_a, x_b) <= width
        a, b = (y_a - 1, x_a - 1), (y_b - 1, x_b - 1)
        far, near = {">": (a, b), "<": (b, a)}[words[4]]
    except (ValueError, KeyError, IndexError) as error:
        raise InputError(f"{file}: found '{line}'; expected {EXPECTED}, whole numbers, and > or <") from error
    if not inside:
        raise InputError(f"{file}: found '{line}'; expected pixels within {width}x{height}, counted from 1")
    return Comparison(image, far, near)


def find_images(comparisons: Sequence[Comparison], folder: Path) -> tuple[list[tuple[Comparison, Path]], int]:
    """The comparisons whose image is in the folder, and the number of the others. Raises InputError if there is none."""
    files = [(comparison, folder / comparison.image) for comparison in comparisons]
    present = [(comparison, file) for comparison, file in files if file.is_file()]
    if not present:
        raise InputError(f"{files[0][1]}: no such file, nor any other of {len(files)}; expected the images of the annotations")
    return present, len(files) - len(present)


def judge_order(
    present: Sequence[tuple[Comparison, Path]], predict: Callable[[Frame], Float32Array]
) -> Mapping[str, Disagreement]:
    """Disagreement of `predict`, which gives depth (H, W), and of what needs no image: the lower pixel is nearer, and chance.

    Raises InputError for an image that cannot be read or is smaller than its comparison.
    """
    wrong = {"model": 0, "lower is nearer": 0}
    for comparison, file in tqdm(present, desc="judging order", leave=False, disable=None):
        frame = _frame(file)
        if (np.maximum(comparison.far, comparison.near) >= frame.image.shape[:2]).any():
            raise InputError(f"{file}: is {frame.camera.width}x{frame.camera.height}; expected the size that was annotated")
        depth = predict(frame)
        wrong["model"] += not bool(depth[comparison.far] > depth[comparison.near])  # NaN and equal are no order
        wrong["lower is nearer"] += not comparison.far[0] < comparison.near[0]
    count = len(present)
    return {name: Disagreement(number, count) for name, number in wrong.items()}


def format_order(rows: Mapping[str, Disagreement], skipped: int) -> str:
    """A table of the rates, with chance, as text."""
    count = next(iter(rows.values())).pairs
    lines = [f"{count} pairs of points, DIW's protocol: share in another order than people say; without an order is wrong"]
    lines += [f"{name:<16} WHDR {row.rate:7.2%}  ({row.wrong} of {row.pairs})" for name, row in rows.items()]
    lines.append(f"{'chance':<16} WHDR {0.5:7.2%}")
    return "\n".join([*lines, *([f"note: {skipped} pairs skipped: no image"] if skipped else [])])


def _frame(file: Path) -> Frame:
    """An image with a nominal camera: order does not depend on the focal length. Raises InputError."""
    image = cv2.imread(str(file), cv2.IMREAD_COLOR)
    if image is None:
        raise InputError(f"{file}: cannot be read as an image")
    height, width = image.shape[:2]
    camera = CameraModel(width, height, width, width, (width - 1) / 2, (height - 1) / 2)
    return Frame(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), camera, 0, file.name)

"""Judge a bundle or checkpoint of any kind by the order of points that people see (WHDR, Depth in the Wild).

python -m training.judge_order models/default DIW/DIW_Annotations/DIW_test.csv DIW
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from depth_ros.bundle import BundleError
from depth_ros.engines import EngineError
from depth_ros.types import Float32Array, Frame, InputError
from training.config import ConfigError
from training.evaluate import open_model
from training.judging.ordinal import find_images, format_order, judge_order, read_comparisons
from training.methods import CHOICES_HELP


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="training.judge_order", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL", help="bundle folder or checkpoint")
    add("annotations", type=Path, metavar="ANNOTATIONS", help="DIW's csv: an image, and below it a pair of points with its order")
    add("images", type=Path, metavar="IMAGES", help="folder that the annotations' image paths start from")
    add("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help=f"for a checkpoint: {CHOICES_HELP}")
    options = parser.parse_args(arguments)
    try:
        model = open_model(options.model, options.set)

        def predict(frame: Frame) -> Float32Array:
            return model.estimator.predict([frame])[0].depth

        present, skipped = find_images(read_comparisons(options.annotations), options.images)
        print(format_order(judge_order(present, predict), skipped))
    except (BundleError, ConfigError, EngineError, InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

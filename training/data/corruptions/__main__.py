"""Show an image under all 18 corruptions at all severities.

python -m training.data.corruptions IMAGE --out sheet.png
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2

from depth_ros.types import InputError, UInt8Array
from training.data.corruptions.table import MIN_SIDE, contact_sheet


def _read(file: Path, width: int) -> UInt8Array:
    """Return the image at this width [px]. Raises InputError."""
    image = cv2.imread(str(file), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise InputError(f"{file}: not readable as an image; expected a PNG or JPEG file")
    height = round(width * image.shape[0] / image.shape[1])
    if min(width, height) < MIN_SIDE:
        raise InputError(f"{file}: is {width}x{height} at --width {width}; expected at least {MIN_SIDE} px a side")
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="training.data.corruptions", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("image", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="picture to write, for example sheet.png")
    parser.add_argument("--width", type=int, default=640, help="[px] to which the image is resized first (default: 640)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        sheet = contact_sheet(_read(options.image, options.width), options.seed)
        if not cv2.haveImageWriter(str(options.out)) or not cv2.imwrite(str(options.out), sheet[..., ::-1]):
            raise InputError(f"{options.out}: cannot be written; expected a .png or .jpg in a folder that exists")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Show the procedural worlds, or render the clip that ships with the demo."""

from __future__ import annotations

import argparse
from pathlib import Path

from training.data.street.sheet import CLIP_SEED, write_clip, write_preview


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m training.data.street", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    sheet = "write a sheet of every scene, both texture families and the weather, with depth and masks (default: %(const)s)"
    what.add_argument("--preview", type=Path, metavar="PNG", nargs="?", const=Path("out/street.png"), help=sheet)
    what.add_argument("--clip", type=Path, metavar="DIR", help="write a clip: images at 10 Hz, depth truth, camera.yaml")
    parser.add_argument("--seed", type=int, help=f"of the sheet's first world (default: 0) or of the clip (default: {CLIP_SEED})")
    options = parser.parse_args(arguments)
    if options.preview:
        write_preview(options.preview, options.seed or 0)
    else:
        write_clip(options.clip, CLIP_SEED if options.seed is None else options.seed)


if __name__ == "__main__":
    main()

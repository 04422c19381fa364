"""The split files of KITTI raw, in the two forms that circulate."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from depth_ros.types import InputError
from training.config import DataConfig
from training.data.files import read_lines

# "2011_09_26/2011_09_26_drive_0022_sync 473 r", as Monodepth2 has it
FRAME = re.compile(r"(?P<drive>\d{4}_\d\d_\d\d/\w+)/?\s+(?P<frame>\d+)(\s+(?P<side>[lr]))?")
# "2011_09_26/2011_09_26_drive_0002_sync/image_02/data/0000000069.png", as Eigen's test images are listed; a second column,
# the right image, says nothing more
FILE = re.compile(r"(?P<drive>\d{4}_\d\d_\d\d/\w+)/image_0(?P<camera>[23])/data/(?P<frame>\d+)\.\w+(\s+\S+)?")
EXPECTED = "lines '<date>/<drive> <frame> l|r' or '<date>/<drive>/image_02/data/<frame>.png'"


@dataclass(frozen=True)
class Entry:
    """One image of a split."""

    drive: str  # <date>/<drive>
    frame: int
    right: bool

    def __str__(self) -> str:
        return f"{self.drive} {self.frame} {'r' if self.right else 'l'}"


def split_file(config: DataConfig, part: str) -> Path:
    """The file <part>_files.txt of the folder data.split, which is relative to the data or to the working folder."""
    folders = (Path(config.root) / config.path / config.split, Path(config.split))
    files = [folder / f"{part}_files.txt" for folder in folders]
    for file in files:
        if file.is_file():
            return file
    raise InputError(
        f"data.split is '{config.split}', but there is neither {files[0]} nor {files[1]}; "
        f"expected a folder with {files[0].name}, or all"
    )


def read_split(file: Path) -> list[Entry]:
    """The images of a split file in their order. Raises InputError, naming the line."""
    entries = []
    for line in read_lines(file, EXPECTED):
        found = FRAME.fullmatch(line) or FILE.fullmatch(line)
        if not found:
            raise InputError(f"{file}: found '{line}'; expected {EXPECTED}")
        side = found.groupdict()
        right = side.get("side") == "r" or side.get("camera") == "3"
        entries.append(Entry(found["drive"], int(found["frame"]), right))
    if not entries:
        raise InputError(f"{file}: names no image; expected {EXPECTED}")
    return entries

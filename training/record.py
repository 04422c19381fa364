"""What a run writes beside its checkpoints: config.yaml, environment.yaml, curve.csv and TensorBoard's curves."""

from __future__ import annotations

import csv
import os
import platform
import subprocess
import sys
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.utils.tensorboard import SummaryWriter

from training.config import TrainConfig, to_dict

PACKAGES = ("torch", "lightning-fabric", "numpy", "opencv-python-headless")


class Record:
    """The curves of a run that starts, or goes on, after step `start`; what an earlier process wrote beyond is dropped.

    curve.csv has a row per logged step: step, lr, train/<loss term>..., val/loss, val/<figure>...; empty where not measured.
    """

    def __init__(self, folder: Path, config: TrainConfig, start: int, world_size: int = 1) -> None:
        self.path = folder / "curve.csv"
        (folder / "config.yaml").write_text(yaml.safe_dump(to_dict(config), sort_keys=False), encoding="utf-8")
        with (folder / "environment.yaml").open("w" if start == 0 else "a", encoding="utf-8") as file:
            entry = {"from_step": start, "seed": config.run.seed, **describe_environment(), "processes": world_size}
            yaml.safe_dump([entry], file, sort_keys=False)
        self.rows = [row for row in _read_rows(self.path) if int(row["step"]) <= start]
        self._rewrite()
        self.board = SummaryWriter(str(folder / "curves"), purge_step=start + 1)

    def log(self, step: int, values: dict[str, float]) -> None:
        """Write the values of a step."""
        for name, value in values.items():
            self.board.add_scalar(name, value, step)
        row = {"step": str(step)} | {name: f"{value:.9g}" for name, value in values.items()}  # nine digits tell floats apart
        self.rows.append(row)
        if not row.keys() <= set(self.columns):
            self._rewrite()
            return
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns).writerow(row)

    def close(self) -> None:
        """Finish TensorBoard's file."""
        self.board.close()

    def _rewrite(self) -> None:
        """Write all rows, with the columns that they have, in place of the file."""
        self.columns = list(dict.fromkeys(name for row in self.rows for name in row))
        temporary = self.path.with_suffix(".tmp")
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(self.rows)
        temporary.replace(self.path)


def describe_environment() -> dict[str, Any]:
    """Versions, machine, commit and command of this process."""
    processors = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": sys.argv,
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "machine": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": processors,
    }


def _commit() -> str:
    """The commit of this checkout, -dirty where files differ from it; "unknown" outside of one."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "unknown"
    return found.stdout.strip() or "unknown"


def _read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of an earlier process, without their empty cells; a last line that was cut off is left out."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        return [{k: v for k, v in row.items() if v} for row in rows if None not in row.values()]

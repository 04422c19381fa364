"""The accuracy benchmark as it is run, and its one line where it cannot be."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / "accuracy.py"), *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def test_every_set_is_judged_beside_the_baselines(tmp_path: Path, street_set: Path, make_bundle) -> None:
    calibrated = Path(shutil.copytree(street_set, tmp_path / "with space" / "kitti2015_stereo"))
    arguments = [street_set, calibrated, "--model", make_bundle(192, 64).path.relative_to(tmp_path), "--out", "out/accuracy.json"]
    done = run(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "accuracy.json").read_text())
    assert shlex.split(report["command"]) == ["python", "benchmarks/accuracy.py", *map(str, arguments)]
    assert (ROOT / report["model"]).resolve() == tmp_path / "bundle_192x64"
    assert not Path(report["model"]).is_absolute()
    counts = {name: {row: scores["images"] for row, scores in rows.items()} for name, rows in report["results"].items()}
    rows = ("constant", "mean map", "mean map, pooled", report["model"])
    assert counts == {
        "streets": dict.fromkeys(rows, 8),
        "kitti2015_stereo": dict.fromkeys(rows, 8),
        "kitti2015_stereo[1::2]": dict.fromkeys(rows, 4),
    }


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [("nowhere", None, "nowhere: no such checkpoint"), (None, "nowhere", "meta.json"), (None, ".", "meta.json")],
)
def test_what_cannot_be_judged_is_one_line(
    tmp_path: Path, street_set: Path, make_bundle, model: str | None, data: str | None, message: str
) -> None:
    done = run(tmp_path, data or street_set, "--model", model or make_bundle(192, 64).path, "--out", "accuracy.json")
    assert done.returncode == 1
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert not (tmp_path / "accuracy.json").exists()

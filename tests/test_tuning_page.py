"""docs/tuning.md names parameters that are there, change when it says, and pictures that show what is computed now."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import numpy as np

from benchmarks import tuning_pictures

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "tuning.md").read_text(encoding="utf-8")
PICTURES = re.findall(r"^!\[.+?\]\((tuning_\w+\.jpg)\)$", PAGE, re.MULTILINE)


def table() -> dict[str, str]:
    """When each parameter changes, by docs/interfaces.md."""
    rows = re.findall(
        r"^\| `([\w.]+)` \|(?:[^|]*\|){3} (any time|at start) \|", (ROOT / "docs" / "interfaces.md").read_text(), re.M
    )
    return dict(rows)


def test_parameters_change_when_the_page_says():
    changes = {"live": "any time", "start": "at start"}
    said = [(names, when) for names, when in re.findall(r"((?:`\w+`,? ?)+)\((live|start)\)", PAGE)]
    marked = [(name, changes[when]) for names, when in said for name in re.findall(r"`(\w+)`", names)]
    assert len(marked) >= 9
    assert [(name, table().get(name)) for name, _ in marked] == marked


def test_settings_in_the_page_are_parameters():
    names = set(re.findall(r"`([a-z_]+): [^`]+`", PAGE)) - {"mono_depth"}
    assert names <= {name.rpartition(".")[2] for name in table()}


def test_pictures_are_shown_and_small():
    assert set(PICTURES) == {path.name for path in (ROOT / "docs").glob("tuning_*")}
    sizes = [(ROOT / "docs" / name).stat().st_size for name in PICTURES]
    assert max(sizes) < 150_000
    assert sum(sizes) < 600_000


def test_figures_are_those_of_the_benchmarks():
    results = ROOT / "benchmarks" / "results"
    clips = json.loads((results / "flicker.json").read_text())["clips"]
    for clip in ("street_still", "street"):
        change = [100 * clips[clip][kind]["change_mean"] for kind in ("plain", "filtered")]
        assert re.search(rf"from\s+{change[0]:.1f} % to {change[1]:.1f} %", PAGE)
    measured = json.loads((results / "node_latency.json").read_text())["measured"]
    assert f"depth {measured['latency_ms']['/depth/image_rect']['p50']:.0f} ms after" in PAGE
    assert f"the engine takes {measured['node_ms']['engine']['p50']:.0f} ms" in PAGE


def test_the_pictures_are_those_that_the_code_makes(tmp_path):
    assert tuning_pictures.main(["--out", str(tmp_path)]) == 0
    for name in PICTURES:
        made, kept = (cv2.imread(str(folder / name)).astype(float) for folder in (tmp_path, ROOT / "docs"))
        assert made.shape == kept.shape
        assert np.abs(made - kept).mean() < 4, f"{name}: python benchmarks/tuning_pictures.py"

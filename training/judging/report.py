"""An evaluation as one HTML file that needs nothing else, and as JSON."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from depth_ros.metrics import RELIABILITY_LEVELS
from training.data.truth import EvaluationSet
from training.judging.judge import Candidate, Judgement
from training.judging.protocols import Protocol
from training.judging.tables import FOOTNOTE, Table, depth_cells, group_cells, headline, notes, uncertainty_cells

SHEETS = 4  # images of the set that are shown
STYLE = """body{font:15px/1.5 sans-serif;max-width:1200px;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums;display:block;overflow-x:auto}
th,td{padding:3px 9px;text-align:right;border-bottom:1px solid #ddd;white-space:nowrap}
th:first-child,td:first-child{text-align:left}th{border-bottom:2px solid #444}
img,svg{max-width:100%;height:auto}h2{margin-top:1.8em}p.note{color:#a33}"""


def write_report(
    folder: Path, dataset: EvaluationSet, rows: Mapping[str, Judgement], candidates: Mapping[str, Candidate], protocol: Protocol
) -> Path:
    """Write `folder`/<set>.html: tables, curves, and sheets of a few images. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{file_name(dataset.name)}.html"
    file.write_text(to_html(dataset, rows, candidates, protocol), encoding="utf-8")
    return file


def write_json(file: Path, results: Mapping[str, Mapping[str, Judgement]], protocol: Protocol) -> None:
    """Write everything but the images: {"protocol", "results": {set: {row: scores}}, "details": {set: {row: ...}}}.

    A figure that is not finite becomes null. Raises OSError.
    """
    values = {
        "protocol": protocol.describe(),
        "source": protocol.source,
        "results": {name: {row: j.scores for row, j in rows.items()} for name, rows in results.items()},
        "details": {name: {row: _details(j) for row, j in rows.items()} for name, rows in results.items()},
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(_plain(values), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def to_html(
    dataset: EvaluationSet, rows: Mapping[str, Judgement], candidates: Mapping[str, Candidate], protocol: Protocol
) -> str:
    """The report of one set as one HTML page with its figures inside."""
    # Here, since matplotlib takes a second to import, and whoever only evaluates or exports does not need it.
    from training.judging.figures import depth_bins_figure, reliability_figure, sheet_figures, sparsification_figure

    scores, scalings = {name: j.scores for name, j in rows.items()}, {name: j.scaling for name, j in rows.items()}
    parts = [f"<h1>{html.escape(dataset.name)}</h1>"]
    parts += [f"<p>{html.escape(line)}</p>" for line in headline(dataset.name, scores, scalings, protocol)]
    parts += [f'<p class="note">{html.escape(line)}</p>' for line in notes(rows)]
    parts += ["<h2>Depth</h2>", table_html(depth_cells(scores, scalings, protocol)), f"<p>{html.escape(FOOTNOTE)}</p>"]
    parts += ["<h2>Uncertainty</h2>", table_html(uncertainty_cells(rows)), sparsification_figure(rows), reliability_figure(rows)]
    parts += ["<h2>Where the errors are</h2>", table_html(group_cells(rows)), depth_bins_figure(rows)]
    count = max(int(j.scores["images"]) for j in rows.values())
    shown = np.linspace(0, count - 1, min(SHEETS, count)).round().astype(int).tolist()  # spread over the set
    sheets = sheet_figures(dataset, {name: candidates[name] for name in rows if name in candidates}, protocol, shown)
    parts += ["<h2>Images</h2>", *sheets] if sheets else []
    title = html.escape(f"{dataset.name}, {protocol.name}")
    head = f'<meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n' + "\n".join(parts) + "\n</body></html>\n"


def table_html(table: Table) -> str:
    """A table of text cells."""
    header, rows = table
    lines = ["".join(f"<th>{html.escape(cell)}</th>" for cell in header)]
    lines += ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def file_name(name: str) -> str:
    """The name of a set, such as set[1::2], as the name of a file."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name)


def _details(judgement: Judgement) -> dict[str, Any]:
    reliability = judgement.reliability
    return {
        "scaling": judgement.scaling,
        "notes": judgement.notes,
        "orderings": judgement.orderings,
        "sparsification": judgement.curves,
        "reliability": None if reliability is None else {"nominal": RELIABILITY_LEVELS, "observed": reliability},
        "groups": judgement.groups,
    }


def _plain(value: Any) -> Any:
    """Nested values as JSON knows them."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value

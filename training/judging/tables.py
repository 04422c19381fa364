"""Scores as text tables that name their protocol and scaling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from training.judging.judge import ORDERINGS, Judgement, Scores
from training.judging.protocols import SCALINGS, Protocol

DEPTH_COLUMNS = (
    "abs_rel",
    "sq_rel",
    "rmse",
    "rmse_log",
    "log10",
    "delta1",
    "delta2",
    "delta3",
    "abs_rel_median_scaled",
    "answered",
)
SIGMA_COLUMNS = ("nll", "coverage_1sigma", "coverage_2sigma")
AREA_COLUMNS = tuple(f"{area}_{metric}" for metric in ("abs_rel", "rmse", "delta1") for area in ("ause", "aurg"))
GROUP_COLUMNS = ("abs_rel", "bias", "rmse", "delta1")
ORDERING_NAMES = {"sigma": "its sigma", "depth": "u = depth", "disparity": "u = disparity", "gradient": "u = image gradient"}
SHORT = {"abs_rel_median_scaled": "abs_rel*", "coverage_1sigma": "in 1 sigma", "coverage_2sigma": "in 2 sigma"}
FOOTNOTE = "* after one factor per image by medians, whatever the scaling"
Table = tuple[tuple[str, ...], list[tuple[str, ...]]]  # header, rows: text


def depth_table(name: str, rows: Mapping[str, Scores], scalings: Mapping[str, str], protocol: Protocol) -> str:
    """The depth errors and, where there is a sigma, its figures: one line per row, below the protocol."""
    table = depth_cells(rows, scalings, protocol, (*SIGMA_COLUMNS, "ause_abs_rel", "aurg_abs_rel"))
    return "\n".join([*headline(name, rows, scalings, protocol), *_aligned(table), FOOTNOTE])


def format_judgements(name: str, rows: Mapping[str, Judgement], protocol: Protocol) -> str:
    """Everything that is printed of one set: depth, uncertainty with the trivial orderings, groups, and what was skipped."""
    scores, scalings = {row: j.scores for row, j in rows.items()}, {row: j.scaling for row, j in rows.items()}
    lines = headline(name, scores, scalings, protocol)
    for table in (depth_cells(scores, scalings, protocol), uncertainty_cells(rows), group_cells(rows)):
        lines += ["", *_aligned(table)]
    return "\n".join([*lines, FOOTNOTE, *notes(rows)])


def headline(name: str, rows: Mapping[str, Scores], scalings: Mapping[str, str], protocol: Protocol) -> list[str]:
    """The set, its number of images, the protocol with its source, and what each scaling that was used means."""
    counts = sorted({int(scores["images"]) for scores in rows.values()})
    count = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    lines = [f"{name}: {count} images, {protocol.describe()}", f"source: {protocol.source}"]
    return lines + [f"scaling {used}: {meaning}" for used, meaning in SCALINGS.items() if used in scalings.values()]


def depth_cells(rows: Mapping[str, Scores], scalings: Mapping[str, str], protocol: Protocol, more: Sequence[str] = ()) -> Table:
    """Depth errors of each row, with its scaling and number of images."""
    columns = [("rms_log10" if protocol.name.startswith("make3d") and c == "log10" else c) for c in (*DEPTH_COLUMNS, *more)]
    header = ("", "scaling", "images", *(SHORT.get(column, column) for column in columns))
    return header, [
        (name, scalings[name], str(int(scores["images"])), *(_number(scores.get(column)) for column in columns))
        for name, scores in rows.items()
    ]


def uncertainty_cells(rows: Mapping[str, Judgement]) -> Table:
    """Calibration of sigma, and AUSE (lower is better) and AURG (higher) of it and of the trivial orderings."""
    found = []
    for name, judgement in rows.items():
        for ordering in (o for o in ORDERINGS if o in judgement.orderings):
            own = judgement.scores if ordering == "sigma" else {}
            figures = {**{c: own.get(c) for c in SIGMA_COLUMNS}, **judgement.orderings[ordering]}
            found.append((name, ORDERING_NAMES[ordering], *(_number(figures.get(c)) for c in (*SIGMA_COLUMNS, *AREA_COLUMNS))))
            name = ""
    return ("", "ranked by", *(SHORT.get(column, column) for column in (*SIGMA_COLUMNS, *AREA_COLUMNS))), found


def group_cells(rows: Mapping[str, Judgement]) -> Table:
    """AbsRel of each group of pixels, one row per group and one column per candidate, with the pixels of the last."""
    groups = list(dict.fromkeys(group for judgement in rows.values() for group in judgement.groups))
    cells = [
        (group, *(_number(j.groups.get(group, {}).get("abs_rel")) for j in rows.values()), _pixels(rows, group))
        for group in groups
    ]
    for figure in ("edge_sharpness", "flying_pixel_rate"):
        if any(figure in j.scores for j in rows.values()):
            cells.append((figure.replace("_", " "), *(_number(j.scores.get(figure)) for j in rows.values()), ""))
    return ("abs_rel over all pixels", *rows, "pixels"), cells


def notes(rows: Mapping[str, Judgement]) -> list[str]:
    """What was skipped or is odd, said once where it is the same for all."""
    found: dict[str, list[str]] = {}
    for name, judgement in rows.items():
        for note in judgement.notes:
            found.setdefault(note, []).append(name)
    return [f"note: {note}" + ("" if len(names) == len(rows) else f" ({', '.join(names)})") for note, names in found.items()]


def _pixels(rows: Mapping[str, Judgement], group: str) -> str:
    return str(max(int(j.groups[group]["pixels"]) for j in rows.values() if group in j.groups))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _aligned(table: Table) -> list[str]:
    header, rows = table
    widths = [max(len(line[i]) for line in (header, *rows)) for i in range(len(header))]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in (header, *rows)
    ]

"""The figures of one demo run, computed from what was PUBLISHED: the recording, read back."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from depth_ros.tools.recording import answers
from depth_ros.truth import PROTOCOL, TruthFolder, judge
from depth_ros.types import DepthPrediction


def summarise(recording: Path, index: Path, truth: TruthFolder | None = None) -> dict[str, Any]:
    """Return the figures of a run as JSON-able values; `index` is the player's CSV (stamp_ns, name) of published images.

    Raises InputError if a truth file cannot be used.
    """
    names = _read_index(index)
    receipts_ns, latencies_ms, valid_fractions = [], [], []
    scores: defaultdict[str, list[float]] = defaultdict(list)
    for answer in answers(recording):
        if answer.stamp_ns not in names:  # somebody else's image
            continue
        receipts_ns.append(answer.receipt_ns)
        latencies_ms.append(answer.latency_ms)
        valid_fractions.append(float(np.isfinite(answer.depth).mean()))
        true_depth = truth.depth(names[answer.stamp_ns]) if truth else None
        if true_depth is not None:
            for key, value in judge(DepthPrediction(answer.depth, answer.sigma, answer.camera), true_depth).items():
                scores[key].append(value)
    frames_out = len(receipts_ns)
    summary: dict[str, Any] = {
        "frames_in": len(names),
        "frames_out": frames_out,
        "frames_dropped": len(names) - frames_out,
        "rate_hz": _rate_hz(receipts_ns),
        "latency_ms": _latency(latencies_ms),
        "valid_fraction": float(np.mean(valid_fractions)) if valid_fractions else None,
    }
    if truth:
        summary |= {"frames_with_truth": len(scores["abs_rel"]), "protocol": PROTOCOL}
        summary |= {key: float(np.mean(values)) for key, values in scores.items() if values}
    return summary


def _read_index(file: Path) -> dict[int, str]:
    if not file.is_file():  # ended before the first image
        return {}
    with file.open(newline="", encoding="utf-8") as stream:
        return {int(stamp_ns): name for stamp_ns, name in csv.reader(stream)}


def _rate_hz(receipts_ns: list[int]) -> float | None:
    if len(receipts_ns) < 2:
        return None
    return (len(receipts_ns) - 1) / ((max(receipts_ns) - min(receipts_ns)) * 1e-9)


def _latency(latencies_ms: list[float]) -> dict[str, float] | None:
    if not latencies_ms:
        return None
    p50, p95 = np.percentile(latencies_ms, (50, 95))
    return {"p50": float(p50), "p95": float(p95), "max": max(latencies_ms)}

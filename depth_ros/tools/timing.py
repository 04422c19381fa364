"""How long calls take and how much memory a process takes: for the tools and the benchmarks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

WARM_UP = 5  # calls that are not counted
LEAST, MOST = 10, 300  # calls that are, whatever the time


def time_calls(call: Callable[[int], object], seconds: float) -> tuple[list[float], list[float]]:
    """Wall time [s] of every call(number), about `seconds` in all, and the time that all cores together worked for it [s]."""
    for number in range(WARM_UP):
        call(number)
    times: list[float] = []
    cpu_times: list[float] = []
    while len(times) < LEAST or (sum(times) < seconds and len(times) < MOST):
        start, cpu_start = time.perf_counter(), time.process_time()
        call(len(times))
        times.append(time.perf_counter() - start)
        cpu_times.append(time.process_time() - cpu_start)
    return times, cpu_times


def percentiles(values_ms: Iterable[float]) -> dict[str, float]:
    """Median, 95 %, 99 % and worst, rounded to the microsecond."""
    values = np.fromiter(values_ms, float)
    names = ("p50", "p95", "p99", "max")
    return {name: round(float(v), 3) for name, v in zip(names, np.percentile(values, (50, 95, 99, 100)), strict=True)}


def start_of_peak() -> int:
    """Bytes that this process holds, from where its peak is counted anew."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak() -> int:
    """The most bytes that this process has held since start_of_peak()."""
    return _status("VmHWM")


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))

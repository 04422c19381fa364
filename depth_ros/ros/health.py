"""What happened to the frames: counts, rate and latency."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

KEPT_LATENCIES = 1000  # enough for the longest useful period, and bounded


class Health:
    """Counts frames from the executor's and the worker's threads; `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self.received = 0  # images that arrived
        self.answered = 0  # images whose depth was published
        self.refused = 0  # images that could not be used
        self.refusal = ""  # why the last of them could not
        self._started_s = self._received_s = clock()
        self._latencies_ns: deque[int] = deque(maxlen=KEPT_LATENCIES)

    def image_received(self) -> None:
        """Count an image that arrived."""
        with self._lock:
            self.received += 1
            self._received_s = self._clock()

    def frame_answered(self, latency_ns: int) -> None:
        """Count an image whose depth was published `latency_ns` after its stamp."""
        with self._lock:
            self.answered += 1
            self._latencies_ns.append(latency_ns)

    def frame_refused(self, reason: str) -> None:
        """Count an image that could not be used."""
        with self._lock:
            self.refused += 1
            self.refusal = reason

    def silent_s(self) -> float:
        """Return the seconds since the last image, or since the start."""
        return self._clock() - self._received_s

    def snapshot(self, dropped: int) -> Snapshot:
        """Return the counts so far; `dropped` is counted elsewhere."""
        with self._lock:
            latencies_ms = np.array(self._latencies_ns, np.float64) / 1e6
            return Snapshot(self._clock(), self.received, self.answered, dropped, self.refused, latencies_ms)


@dataclass(frozen=True)
class Snapshot:
    """Counts at one moment."""

    time_s: float
    received: int
    answered: int
    dropped: int
    refused: int
    latencies_ms: NDArray[np.float64]  # of the last answers


@dataclass(frozen=True)
class Figures:
    """What happened in a period."""

    received_hz: float
    answered_hz: float
    latency_ms: float  # median; NaN without an answer
    latency_max_ms: float  # NaN without an answer
    dropped: int
    refused: int

    def __str__(self) -> str:
        line = f"{self.received_hz:.1f} images/s in, {self.answered_hz:.1f} answered/s"
        if self.latency_ms == self.latency_ms:
            line += f", latency {self.latency_ms:.0f} ms (max {self.latency_max_ms:.0f})"
        return f"{line}, {self.dropped} dropped, {self.refused} refused"


class Meter:
    """Reads a Health in periods of its own: the log's are not those of the diagnostics."""

    def __init__(self, health: Health) -> None:
        self._health = health
        self._last = health.snapshot(0)

    def read(self, dropped: int) -> Figures | None:
        """Return what happened since the last call, None if nothing did; `dropped` is the total so far."""
        now, last = self._health.snapshot(dropped), self._last
        self._last = now
        seconds = now.time_s - last.time_s
        received, answered, refused = (getattr(now, n) - getattr(last, n) for n in ("received", "answered", "refused"))
        if not (received or answered or refused) or seconds <= 0:
            return None
        latencies_ms = now.latencies_ms[-answered:] if answered else np.array([np.nan])
        return Figures(
            received / seconds, answered / seconds, float(np.median(latencies_ms)), float(latencies_ms.max()),
            now.dropped - last.dropped, refused,
        )  # fmt: skip

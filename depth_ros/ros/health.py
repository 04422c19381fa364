"""What happened to the frames: counts, rate and latency, as one line for the log."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

import numpy as np

KEPT_LATENCIES = 1000  # enough for the longest useful period, and bounded


class Health:
    """Counts frames from the executor's and the worker's threads; `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self.received = 0  # images that arrived
        self.answered = 0  # images whose depth was published
        self.refused = 0  # images that could not be used
        self._last = (self._clock(), 0, 0, 0, 0)  # time, received, answered, dropped, refused of the last report
        self._latencies_ns: deque[int] = deque(maxlen=KEPT_LATENCIES)

    def image_received(self) -> None:
        """Count an image that arrived."""
        with self._lock:
            self.received += 1

    def frame_answered(self, latency_ns: int) -> None:
        """Count an image whose depth was published `latency_ns` after its stamp."""
        with self._lock:
            self.answered += 1
            self._latencies_ns.append(latency_ns)

    def frame_refused(self) -> None:
        """Count an image that could not be used."""
        with self._lock:
            self.refused += 1

    def report(self, dropped: int) -> str | None:
        """Return a line on the time since the last report, or None if nothing arrived; `dropped` is the total so far."""
        with self._lock:
            now = (self._clock(), self.received, self.answered, dropped, self.refused)
            seconds, received, answered, drops, refused = (new - old for new, old in zip(now, self._last, strict=True))
            latencies_ms = np.array(self._latencies_ns) / 1e6
            self._last = now
            self._latencies_ns.clear()
        if not (received or answered or refused) or seconds <= 0:
            return None
        line = f"{received / seconds:.1f} images/s in, {answered / seconds:.1f} answered/s"
        if latencies_ms.size:
            line += f", latency {np.median(latencies_ms):.0f} ms (max {latencies_ms.max():.0f})"
        return f"{line}, {drops} dropped, {refused} refused"

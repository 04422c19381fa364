"""What happened to the frames: counts, rate and latency."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from depth_ros.answers import Answer

KEPT_ANSWERS = 1000  # enough for the longest useful period, and bounded
JUMP_S = 1.0  # by which a stamp lies before the last one where time has jumped back (a bag that starts again)
FUTURE_S, PAST_S = 0.5, 5.0  # of a stamp at receipt, beyond which a clock is wrong


class Health:
    """Counts one camera's frames from the executor's and the worker's threads; `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self.received = 0  # images that arrived
        self.answered = 0  # images whose depth was published
        self.refused = 0  # images that could not be used
        self.refusal = ""  # why the last of them could not
        self.jumps = 0  # how often time jumped back
        self.invalid_share = 0.0  # of the last answer's pixels, those that are NaN
        self._received_s = clock()
        self._stamp_ns = self._age_ns = 0  # of the last image, and its age when it arrived
        self._latencies_ns: deque[int] = deque(maxlen=KEPT_ANSWERS)
        self._inferences_ms: deque[float] = deque(maxlen=KEPT_ANSWERS)

    def image_received(self, stamp_ns: int, now_ns: int) -> None:
        """Count an image that arrived at `now_ns`."""
        with self._lock:
            self.received += 1
            self.jumps += stamp_ns < self._stamp_ns - JUMP_S * 1e9
            self._received_s, self._stamp_ns, self._age_ns = self._clock(), stamp_ns, now_ns - stamp_ns

    def frame_answered(self, latency_ns: int, answer: Answer | None) -> None:
        """Count an image whose answer was published `latency_ns` after its stamp; None: its camera_info alone."""
        with self._lock:
            self.answered += 1
            self.invalid_share = answer.invalid_share if answer else 0.0
            self._latencies_ns.append(latency_ns)
            self._inferences_ms.append(answer.inference_ms if answer else 0.0)

    def frame_refused(self, reason: str) -> None:
        """Count an image that could not be used."""
        with self._lock:
            self.refused += 1
            self.refusal = reason

    def wrong_time(self) -> str:
        """Say what is wrong with the last image's stamp, and what to do; empty if nothing."""
        if not self.received or -FUTURE_S * 1e9 <= self._age_ns <= PAST_S * 1e9:
            return ""
        if self._age_ns == -self._stamp_ns:
            return (
                "the node's clock stands at 0: use_sim_time is set, and nobody publishes /clock; unset it, or play with --clock"
            )
        if self._stamp_ns == 0:
            return "images have stamp 0: latency cannot be told, nor can they be matched; let the camera driver stamp them"
        if self._age_ns < 0:
            where = f"{-self._age_ns / 1e9:.1f} s in the future"
        else:
            where = f"{self._age_ns / 1e9:.1f} s old when they arrive"
        return f"images are {where}: synchronise the clocks; when a bag is played, use_sim_time must be the same for all"

    def silent_s(self) -> float:
        """Return the seconds since the last image, or since the start."""
        return self._clock() - self._received_s

    def snapshot(self, dropped: int) -> Snapshot:
        """Return the counts so far; `dropped` is counted elsewhere."""
        with self._lock:
            latencies_ms, inferences_ms = np.array(self._latencies_ns, np.float64) / 1e6, np.array(self._inferences_ms)
            return Snapshot(self._clock(), self.received, self.answered, dropped, self.refused, latencies_ms, inferences_ms)


@dataclass(frozen=True)
class Snapshot:
    """Counts at one moment."""

    time_s: float
    received: int
    answered: int
    dropped: int
    refused: int
    latencies_ms: NDArray[np.float64]  # of the last answers
    inferences_ms: NDArray[np.float64]  # of the same


@dataclass(frozen=True)
class Figures:
    """What happened in a period."""

    received_hz: float
    answered_hz: float
    latency_ms: float  # median; NaN without an answer, as all times
    latency_p95_ms: float
    latency_max_ms: float
    inference_ms: float  # median
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
        none = np.array([np.nan])
        latencies_ms, inferences_ms = (
            values[-answered:] if answered else none for values in (now.latencies_ms, now.inferences_ms)
        )
        median_ms, p95_ms, max_ms = (float(value) for value in np.percentile(latencies_ms, (50, 95, 100)))
        return Figures(
            received / seconds, answered / seconds, median_ms, p95_ms, max_ms, float(np.median(inferences_ms)),
            now.dropped - last.dropped, refused,
        )  # fmt: skip

"""What TensorRT says while it builds: its log, and how far it is."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import cache
from typing import Any

LOG = logging.getLogger(__name__)
PROGRESS_PERIOD_S = 1.0  # between two reports, at least
LEAST_STEP = 0.01  # of the whole, between two reports


def make_log(trt: Any) -> Any:
    """TensorRT's logger: warnings and errors go to `logging`, and the last error from now on stays in `last_error`."""
    log = _the_log(trt)
    log.last_error = "no reason given"
    return log


@cache
def _the_log(trt: Any) -> Any:
    """The one logger: TensorRT ignores any other one in the same process."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.last_error = ""

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.last_error = " ".join(message.split())
                LOG.error(self.last_error)
            elif severity == trt.ILogger.WARNING:
                LOG.warning(" ".join(message.split()))

    return Log()


class Shares:
    """How much of a build is done, from its phases: each has a number of steps, and a step may be a phase itself."""

    def __init__(self) -> None:
        self._phases: dict[str, tuple[str | None, int, int]] = {}  # name: parent, steps, steps done
        self._most = 0.0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase begins."""
        self._phases[name] = (parent, steps, 0)

    def step(self, name: str, step: int) -> None:
        """Step number `step`, counted from 0, of a phase is done."""
        parent, steps, _ = self._phases[name]
        self._phases[name] = (parent, steps, step + 1)

    def finish(self, name: str) -> None:
        """A phase ended."""
        self._phases.pop(name, None)

    def done(self) -> float:
        """Share of the whole that is done, 0 to 1; it never goes back."""
        roots = [name for name, (parent, _, _) in self._phases.items() if parent not in self._phases]
        self._most = max([self._most, *map(self._share, roots)])
        return self._most

    def _share(self, name: str) -> float:
        _, steps, done = self._phases[name]
        inside = max((self._share(child) for child, (parent, _, _) in self._phases.items() if parent == name), default=0.0)
        return min(1.0, (done + inside) / max(1, steps))


def make_monitor(trt: Any, report: Callable[[float], None]) -> Any:
    """TensorRT's progress monitor: calls `report(share done)` now and then.

    What `report` raises (a node that shuts down) ends the build and is kept in `interrupted`.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.interrupted: BaseException | None = None
            self._lock = threading.Lock()  # TensorRT calls from several threads
            self._shares = Shares()
            self._next = time.monotonic() + PROGRESS_PERIOD_S
            self._told = 0.0

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            with self._lock:
                self._shares.start(name, parent, steps)

        def phase_finish(self, name: str) -> None:
            with self._lock:
                self._shares.finish(name)

        def step_complete(self, name: str, step: int) -> bool:
            with self._lock:
                self._shares.step(name, step)
                share = self._shares.done()
                if share >= self._told + LEAST_STEP and time.monotonic() >= self._next and self.interrupted is None:
                    self._told, self._next = share, time.monotonic() + PROGRESS_PERIOD_S
                    try:
                        report(share)
                    except BaseException as error:  # must not pass through TensorRT, which is C++
                        self.interrupted = error
                return self.interrupted is None

    return Monitor()

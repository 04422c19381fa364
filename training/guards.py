"""What ends a run before its last step: a signal, a loss that is not finite, a collapse."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Mapping
from types import FrameType, TracebackType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
PATIENCE = 3  # validations in a row that a collapse has to last
# Of what Method.health() reports: the smallest and the largest healthy value, and what is beyond.
HEALTHY: dict[str, tuple[float, float, str]] = {
    "near": (0.0, 0.98, "almost the whole depth map is at network.min_depth"),
    "far": (0.0, 0.98, "almost the whole depth map is at network.max_depth"),
    "contrast": (5e-4, math.inf, "the depth map is flat"),
    "parallax": (1e-3, math.inf, "the learned camera does not move"),
}


class TrainingError(Exception):
    """A run that cannot go on; the text says why and what to do."""


class StoppedError(Exception):
    """A run that was asked to stop, and saved its state; `signum` is the signal."""

    def __init__(self, text: str, signum: int) -> None:
        super().__init__(text)
        self.signum = signum


class StopRequest:
    """Within this context SIGINT and SIGTERM ask for a stop after the current step; a second one ends the process at once.

    Loader processes inherit the handlers, so that Ctrl-C, which a terminal sends to all, does not take the data away.
    """

    def __init__(self) -> None:
        self.signum = 0  # the signal that came; 0: none

    def __enter__(self) -> StopRequest:
        main = threading.current_thread() is threading.main_thread()  # Python handles signals there and nowhere else
        self._previous = {number: signal.signal(number, self._ask) for number in SIGNALS} if main else {}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _ask(self, signum: int, frame: FrameType | None) -> None:
        self.signum = signum
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)


def check_loss(terms: Mapping[str, float], step: int, kept: str) -> None:
    """Raise TrainingError if a loss term of the step is NaN or infinite; `kept` says which checkpoint remains."""
    bad = [name for name, value in terms.items() if not math.isfinite(value)]
    if bad:
        values = ", ".join(f"{name} {value:g}" for name, value in terms.items())
        raise TrainingError(
            f"step {step}: the loss is not finite in {' and '.join(bad)} ({values}); "
            f"lower optim.learning_rate, check calibration, poses and truth, or use run.precision 32-true; {kept}"
        )


def check_gradient(norm: float, step: int, kept: str) -> None:
    """Raise TrainingError if the norm of the step's gradient is NaN or infinite; `kept` says which checkpoint remains."""
    if not math.isfinite(norm):
        raise TrainingError(
            f"step {step}: the loss is finite, but the norm of its gradient is {norm:g}; "
            f"lower optim.learning_rate or use run.precision 32-true; {kept}"
        )


def find_collapse(health: Mapping[str, float]) -> str:
    """What has collapsed, by those figures of Method.health() that have limits; "" if nothing has."""
    reasons = []
    for name, value in health.items():
        if name not in HEALTHY:
            continue
        lowest, highest, text = HEALTHY[name]
        if not lowest <= value <= highest:
            reasons.append(f"{text} ({name} {value:.2g})")
    return " and ".join(reasons)


def check_collapse(reason: str, count: int, step: int, kept: str) -> None:
    """Raise TrainingError if `count` validations in a row found a collapse, the last of them for `reason`."""
    if count >= PATIENCE:
        raise TrainingError(
            f"step {step}: collapsed for {count} validations in a row: {reason}, so a falling loss means nothing; lower "
            f"optim.learning_rate, set method.normalise_disparity for learned poses, or start from a trained run.init; {kept}"
        )

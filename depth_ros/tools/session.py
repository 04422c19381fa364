"""One run over DDS: recorder, node and camera player as three processes, from the first start to the last answer."""

from __future__ import annotations

import json
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from depth_ros.tools.processes import Child, environment, log_level, stop

START_TIMEOUT_S = 120.0  # an engine may be compiled at the first start
SETTLE_S = 5.0  # silence for this long after the last image means that no more answers come
POLL_S = 0.1
NO_LOG_FILE = ("--ros-args", "--disable-external-lib-logs")  # rcl's: what a process prints is in the log folder already


PROCESSES = ("recorder", "node", "player")  # each with a file <name>.txt in the log folder


class SessionError(Exception):
    """A run that failed; the text names the process and what it said, in one line."""


class Session:
    """Runs the three processes; `index` is the CSV of published images that the player writes."""

    def __init__(self, recorder: list[str], node: list[str], player: list[str], index: Path, log: Path) -> None:
        self._commands = dict(zip(PROCESSES, (recorder, node, player), strict=True))
        self._index = index
        self._log = log
        self._environment = environment(log)
        self._children: dict[str, Child] = {}
        self._progress: dict[str, Any] = {"ready": False, "images": 0, "answers": 0, "rate_hz": None, "latency_ms": None}

    def run(self, interrupted: threading.Event) -> None:
        """Play the input to its end or until `interrupted`. No process is left afterwards. Raises SessionError."""
        killed: list[str] = []
        try:
            self._start("recorder")
            self._start("node")
            self._wait_until_ready(interrupted)
            if not interrupted.is_set():
                self._start("player")
                self._follow(interrupted)
        finally:
            try:
                killed += self._stop("player")
                self._settle()
            finally:
                killed += self._stop("recorder", "node")
        if killed:
            raise SessionError(f"{', '.join(killed)} did not stop and had to be killed; see {self._log}")
        for child in self._children.values():
            # Before it is ready, a process may not yet handle the signal that ends it.
            cut_short = interrupted.is_set() and (child.name == "player" or not self._progress["ready"])
            if child.poll() != 0 and not cut_short:
                raise SessionError(f"{child.name}: {child.complaint()}")

    def complaint(self, name: str) -> str:
        """Return what process `name` says of itself, see Child."""
        return self._children[name].complaint() if name in self._children else "it was never started"

    def _start(self, name: str) -> None:
        listener = partial(self._hear, name)
        command = [*self._commands[name], *NO_LOG_FILE]
        self._children[name] = Child(name, command, self._environment, self._log / f"{name}.txt", listener)

    def _stop(self, *names: str) -> list[str]:
        return stop([self._children[name] for name in names if name in self._children])

    def _hear(self, name: str, line: str) -> None:
        level, words = log_level(line)
        if name == "recorder" and line.startswith("{"):
            self._progress = json.loads(line)
        elif level in ("WARN", "ERROR", "FATAL"):
            tqdm.write(f"{name}: {words}", file=sys.stderr)

    def _servers(self) -> list[Child]:
        return [child for child in self._children.values() if child.name != "player"]

    def _check_servers(self) -> None:
        for child in self._servers():
            if child.poll() is not None:
                raise SessionError(f"{child.name}: {child.complaint()}")

    def _wait_until_ready(self, interrupted: threading.Event) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._progress["ready"] and not interrupted.wait(POLL_S):
            self._check_servers()
            if time.monotonic() > deadline:
                raise SessionError(f"node: not ready after {START_TIMEOUT_S:.0f} s ({self.complaint('node')}); see {self._log}")

    def _follow(self, interrupted: threading.Event) -> None:
        player = self._children["player"]
        with tqdm(unit=" images", bar_format="{n_fmt} images [{elapsed}{postfix}]", mininterval=_refresh_s()) as bar:
            while player.poll() is None and not interrupted.wait(POLL_S):
                self._check_servers()
                if not self._progress["answers"]:
                    self._note_shared_memory()
                self._show(bar)
            self._show(bar)

    def _note_shared_memory(self) -> None:
        for child in self._children.values():  # for the case that one of them crashes
            child.note_shared_memory()

    def _show(self, bar: Any) -> None:
        images, answers, rate_hz, latency_ms = (self._progress[key] for key in ("images", "answers", "rate_hz", "latency_ms"))
        rate = f"{rate_hz:.1f} Hz" if rate_hz else "waiting"
        latency = f", latency {latency_ms:.0f} ms" if latency_ms else ""
        dropped = max(0, images - answers - 1)  # one image is being worked on
        bar.set_postfix_str(f"{rate}{latency}, {dropped} dropped", refresh=False)
        bar.update(images - bar.n)

    def _settle(self) -> None:
        """Wait for the answer to the last image: the newest is never dropped, so it comes, or nothing more does."""
        published = _count_rows(self._index)
        seen, since = self._progress, time.monotonic()
        while published and time.monotonic() - since < SETTLE_S and all(child.poll() is None for child in self._servers()):
            if seen["images"] >= published and seen["last_answer_ns"] >= seen["last_image_ns"]:
                return
            time.sleep(POLL_S)
            if (self._progress["images"], self._progress["answers"]) != (seen["images"], seen["answers"]):
                since = time.monotonic()
            seen = self._progress


def _refresh_s() -> float:
    """Seconds between updates of the live line: fewer where they do not overwrite each other."""
    return 0.3 if sys.stderr.isatty() else 5.0


def _count_rows(index: Path) -> int:
    return len(index.read_text(encoding="utf-8").splitlines()) if index.is_file() else 0

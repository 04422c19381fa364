"""Child processes of a demo or benchmark: started with a log each, watched, and stopped without leaving anything behind."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHARED_MEMORY = Path("/dev/shm")
STOP_STEPS = ((signal.SIGINT, 15.0), (signal.SIGTERM, 3.0), (signal.SIGKILL, 3.0))  # signal, seconds to obey it
_LOG_LINE = re.compile(r"^\[(?P<level>[A-Z]+)\](?: \[[^\]]*\])* ?:? ?(?P<text>.*)$")  # [WARN] [171234.5] [node]: text
_ERROR_LEVELS = ("ERROR", "FATAL")
_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1  # prctl(2)


class Child:
    """A Python module running as a process in a session of its own (Ctrl-C reaches it through stop() only).

    Everything it prints goes to `log`; `on_line` is called with each line from a thread. The kernel ends the child with
    SIGTERM when the thread that made it ends, however that happens: make it on the main thread.
    """

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        environment: dict[str, str],
        log: Path,
        on_line: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.name = name
        self._last_line = self._last_error = ""
        self.shared_memory: set[Path] = set()
        self._process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            preexec_fn=partial(_end_with, os.getpid()),
        )
        self._log = log
        self._reader = threading.Thread(target=self._read, args=(on_line,), name=f"{name} output", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def note_shared_memory(self) -> None:
        """Remember in `shared_memory` which Fast DDS files the process uses; asked in vain once it has ended."""
        self.shared_memory |= shared_memory_of(self.pid)

    def poll(self) -> int | None:
        """Exit code, or None while it runs."""
        return self._process.poll()

    def wait(self, timeout_s: float) -> bool:
        """Wait for the process; return whether it has ended."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)
        return self.poll() is not None

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process, if it still runs."""
        self._process.send_signal(number)

    def complaint(self) -> str:
        """Return which signal ended the process, or else the last error it logged, or else its last line."""
        code = self.poll()
        if code is not None:
            self._reader.join(timeout=2.0)
        if code is not None and code < 0:
            return f"ended by {signal.Signals(-code).name}; see {self._log}"
        return self._last_error or f"{self._last_line or 'it said nothing'}{f' (exit code {code})' if code else ''}"

    def _read(self, on_line: Callable[[str], None]) -> None:
        assert self._process.stdout is not None
        with self._log.open("w", encoding="utf-8") as file, self._process.stdout as lines:
            for raw in lines:
                file.write(raw)
                file.flush()
                line = raw.strip()
                level, words = log_level(line)
                if level in _ERROR_LEVELS:
                    self._last_error = words
                if words and not words.startswith("{"):
                    self._last_line = words
                on_line(line)


def _end_with(parent: int) -> None:
    """Between fork and exec: ask for SIGTERM at the parent's death."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it has died already
        os._exit(1)


def log_level(line: str) -> tuple[str, str]:
    """Split a line of a ROS log into its level ("" if it has none) and its text."""
    match = _LOG_LINE.match(line)
    return (match["level"], match["text"]) if match else ("", line)


@contextmanager
def noting_signals(interrupted: threading.Event) -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and the end of the terminal (unless under nohup) only set `interrupted`."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    previous = {number: signal.signal(number, lambda *_: interrupted.set()) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def environment(log_folder: Path) -> dict[str, str]:
    """Return the environment of ROS processes that talk to each other on this machine only.

    Their ROS domain is never the user's own, where other cameras and nodes may run; a Fast DDS profile of the user's is kept.
    """
    values = dict(os.environ)
    domain = 1 + os.getpid() % 100
    values["ROS_DOMAIN_ID"] = str(domain if str(domain) != values.get("ROS_DOMAIN_ID") else 101)
    values["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    if values.get("ROS_DISTRO") == "humble":  # does not know the discovery range yet
        values["ROS_LOCALHOST_ONLY"] = "1"
    profile = ROOT / "config" / "fastdds_shm.xml"
    if profile.is_file():
        values.setdefault("FASTRTPS_DEFAULT_PROFILES_FILE", str(profile))  # Fast DDS 2 (Humble, Jazzy), as in the launch file
    values.setdefault("AMENT_PREFIX_PATH", sys.prefix)  # where the ROS 2 wheels keep their index
    values["ROS_LOG_DIR"] = str(log_folder)
    values["PYTHONUNBUFFERED"] = "1"
    return values


def stop(children: Sequence[Child]) -> list[str]:
    """Stop all children, politely first; return the names of those that had to be killed."""
    killed = []
    for child in children:
        child.note_shared_memory()
    segments = {file for child in children for file in child.shared_memory}
    for number, patience_s in STOP_STEPS:
        alive = [child for child in children if child.poll() is None]
        killed = [child.name for child in alive if number == signal.SIGKILL]
        for child in alive:
            child.send(number)
        deadline = time.monotonic() + patience_s
        for child in alive:
            child.wait(max(0.0, deadline - time.monotonic()))
    if left := {file for file in segments if file.exists()}:
        _remove_unused(left)
    return killed


def shared_memory_of(pid: int) -> set[Path]:
    """Return the shared-memory files of Fast DDS that a process has mapped; none once it has ended."""
    with suppress(OSError):
        maps = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace")
        return {Path(path) for path in re.findall(rf"{SHARED_MEMORY}/(?:sem\.)?fastrtps_\S+", maps)}
    return set()


def _remove_unused(segments: set[Path]) -> None:
    """Remove what a killed process has left behind, unless somebody else uses it."""
    used = {file for process in Path("/proc").glob("[0-9]*") for file in shared_memory_of(int(process.name))}
    for file in segments - used:
        for leftover in (file, file.with_name(f"{file.name}_el"), file.with_name(f"sem.{file.name}_mutex")):
            with suppress(PermissionError):  # another user's, so not ours to remove
                leftover.unlink(missing_ok=True)

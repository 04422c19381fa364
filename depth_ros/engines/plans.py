"""The cache of built TensorRT engines ("plans"): what each was built from and for, so that no other one is ever run.

A plan is bound to graph, TensorRT version and GPU. Beside every `<name>.plan` lies `<name>.json`, the sidecar, with all parts of
its key, its checksum and how it did in the numeric gate. A plan without a sidecar that fits it is not used.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

from depth_ros.engines import EngineError
from depth_ros.engines.plan_keys import PlanKey, differences, differing

TURN_S = 0.5  # between two looks at a lock that another process holds
TURNS_PER_WORD = 6  # between two messages that it is waited for, which is when the waiting can be stopped


@dataclass(frozen=True)
class Plan:
    """A plan in the cache. Usable only where `reason` is empty."""

    key: PlanKey  # of this plan: its precision is not the one asked for where that one was refused
    path: Path
    data: bytes = b""  # empty where it is not usable
    details: Mapping[str, Any] = field(default_factory=dict)  # the sidecar
    reason: str = ""  # why it is not usable
    refused: str = ""  # why the precision asked for is not used although this plan is


class PlanCache:
    """Plans in one folder. Readers need no lock; a builder holds lock(key) from before it looks until it has stored."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, key: PlanKey) -> Path:
        """Where the plan of this key lies, or would."""
        return self.folder / f"{key.stem}.plan"

    def find(self, key: PlanKey) -> Plan | None:
        """The plan for this key; None where there is nothing like it. One that lies there but must not be used says why."""
        path = self.path(key)
        try:
            details = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            found = _key_of(details["key"])
            instead = _key_of(details["instead"]) if details.get("instead") else None
            if instead == found:
                raise ValueError("it names itself to be used instead")
        except FileNotFoundError:
            return self._nearest(key)
        except (OSError, ValueError, TypeError, KeyError) as error:
            return Plan(key, path, reason=f"{path.with_suffix('.json')}: not a sidecar ({_text(error)}): build again")
        if found != key:
            return Plan(found, path, b"", details, reason=f"{path} {differences(key, found)}")
        if "refused" in details:
            return self._instead(key, instead, details)
        return _verified(key, path, details)

    def store(self, key: PlanKey, data: bytes, details: Mapping[str, Any]) -> Plan:
        """Write plan and sidecar. Raises EngineError (no space, not writable).

        The sidecar comes last and the old one goes first: whenever this process is killed, what lies there is the old plan,
        nothing, or the new plan.
        """
        path = self.path(key)
        sidecar = {"key": asdict(key), "plan_sha256": hashlib.sha256(data).hexdigest(), "plan_bytes": len(data), **details}
        self._begin(key)
        write_atomically(path, data)
        write_atomically(path.with_suffix(".json"), _to_json(sidecar))
        return Plan(key, path, data, sidecar)

    def refuse(self, key: PlanKey, why: str, instead: PlanKey | None, details: Mapping[str, Any]) -> Plan:
        """Remember that this plan is not to be used, and which one is instead, if any. Raises EngineError."""
        path = self.path(key)
        sidecar = {"key": asdict(key), "refused": why, "instead": instead and asdict(instead), **details}
        self._begin(key)
        path.unlink(missing_ok=True)
        write_atomically(path.with_suffix(".json"), _to_json(sidecar))
        return Plan(key, path, b"", sidecar, reason=_refusal(sidecar))

    @contextmanager
    def lock(self, key: PlanKey, progress: Callable[[str], None] = lambda text: None) -> Iterator[None]:
        """Let one process at a time build this plan. The kernel lets go when the holder dies. Raises EngineError.

        After waiting, look again: the other one may have built it. What `progress` raises ends the waiting.
        """
        with _locked(self.folder / f"{key.stem}.lock", lambda holder: progress(f"waiting for {holder}, which builds {key.stem}")):
            yield

    def _begin(self, key: PlanKey) -> None:
        """Remove what a builder that was killed left behind, and the sidecar: nothing is valid until the new one is there."""
        try:
            for leftover in self.folder.glob(f".{key.stem}.*.tmp"):
                leftover.unlink(missing_ok=True)
            self.path(key).with_suffix(".json").unlink(missing_ok=True)
        except OSError as error:
            raise _not_writable(self.path(key), error) from error

    def _nearest(self, key: PlanKey) -> Plan | None:
        """The plan for the same purpose that differs least, with the reason why it cannot be used."""
        if self.path(key).exists():
            return Plan(key, self.path(key), reason=f"{self.path(key)} has no sidecar, its build did not end: build again")
        relatives = []
        for file in sorted(self.folder.glob(f"{key.family}-*.json")):
            try:
                details = json.loads(file.read_text(encoding="utf-8"))
                relatives.append(Plan(_key_of(details["key"]), file.with_suffix(".plan"), b"", details))
            except (OSError, ValueError, TypeError, KeyError):
                continue  # not the file that was asked for; it is reported when it is
        if not relatives:
            return None
        nearest = min(relatives, key=lambda plan: len(differing(key, plan.key)))
        return replace(nearest, reason=f"{nearest.path} {differences(key, nearest.key)}")

    def _instead(self, key: PlanKey, instead: PlanKey | None, details: Mapping[str, Any]) -> Plan | None:
        if instead is None:
            reason = f"{_refusal(details)}: use another engine, or build again with --force"
            return Plan(key, self.path(key), b"", details, reason=reason)
        plan = self.find(instead)
        return plan and replace(plan, refused=_refusal(details))


def write_atomically(file: Path, data: bytes) -> None:
    """Write `data` so that `file` holds it whole or is as before, whatever happens. Raises EngineError."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the new name itself
        finally:
            os.close(folder)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _not_writable(file, error, f"{len(data) / 1e6:.1f} MB free and ") from error


@contextmanager
def _locked(file: Path, wait: Callable[[str], None]) -> Iterator[None]:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        stream = file.open("a+", encoding="utf-8")  # not truncated by one who waits; never deleted, others may wait on it
    except OSError as error:
        raise _not_writable(file, error) from error
    with stream:
        for turn in count():
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if turn % TURNS_PER_WORD == 0:  # said again and again: a build takes minutes
                    wait(file.read_text(encoding="utf-8") or "another process")
                time.sleep(TURN_S)
        try:
            stream.truncate(0)
            stream.write(f"process {os.getpid()} on {socket.gethostname()}")
            stream.flush()
        except OSError as error:
            raise _not_writable(file, error) from error
        yield


def _verified(key: PlanKey, path: Path, details: Mapping[str, Any]) -> Plan:
    """The plan if its bytes are those that were written."""
    try:
        data = path.read_bytes()
    except OSError as error:
        return Plan(key, path, b"", details, reason=f"{path}: {_text(error)}: build again")
    found, expected = hashlib.sha256(data).hexdigest(), details.get("plan_sha256")
    if found != expected:
        reason = f"{path} is corrupt: {len(data)} bytes with sha256 {found:.12}, expected {expected!s:.12}: build again"
        return Plan(key, path, b"", details, reason=reason)
    return Plan(key, path, data, details)


def _refusal(details: Mapping[str, Any]) -> str:
    return f"{details['key']['precision']} was refused ({details['refused']})"


def _key_of(values: Any) -> PlanKey:
    """A key that a sidecar states. Raises TypeError where it is none."""
    return PlanKey(**values)


def _to_json(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=2) + "\n").encode()


def _not_writable(file: Path, error: OSError, expected: str = "") -> EngineError:
    return EngineError(
        f"{file}: {_text(error)}; expected {expected}a folder that this user may write: free space, or name another engine cache"
    )


def _text(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) else None
    return " ".join((text or f"{type(error).__name__}: {error}").split())

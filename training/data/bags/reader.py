"""Messages of a ROS 2 bag, read with rosbags alone: no ROS is needed. Of a damaged bag, whatever can still be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

from depth_ros.types import InputError

STORAGE = (".mcap", ".db3")
_MAGIC = b"\x89MCAP0\r\n"
_DATA_END, _FOOTER = b"\x0f", b"\x02"
_COPY_BYTES = 1 << 20


@dataclass(frozen=True)
class Stamped:
    """One message, with the time that its header states, or that it was recorded at where that is zero or missing."""

    topic: str
    time_s: float
    content: Any


class BagReader:
    """The messages of a ROS 2 bag: an MCAP or sqlite3 file, or a folder of them, with or without its metadata.yaml.

    A bag that was cut off is read as far as it goes: `damage` says what is missing, `unreadable` counts by topic the messages
    that are not what their type says. `scratch` is a folder for the mended copy of a cut MCAP. Raises InputError for a path
    that nothing can be read from.
    """

    def __init__(self, path: Path, scratch: Path) -> None:
        self.path = path
        self.damage: list[str] = []
        self.unreadable: Counter[str] = Counter()
        self.types: dict[str, str] = {}  # of the topics that hold messages
        self.counts: Counter[str] = Counter()
        self._parts = self._open_parts(scratch)
        for part in self._parts:
            with _open(part) as reader:
                for connection in reader.connections:
                    if connection.msgcount:
                        self.types[connection.topic] = connection.msgtype
                        self.counts[connection.topic] += connection.msgcount

    def messages(self, *topics: str) -> Iterator[Stamped]:
        """Yield the messages of these topics in the order they were recorded; damage ends a file, not the bag."""
        for part in self._parts:
            with _open(part) as reader:
                chosen = [connection for connection in reader.connections if connection.topic in topics]
                for connection, recorded_ns, raw in self._raw_messages(reader, chosen, part) if chosen else ():
                    try:
                        content = reader.deserialize(raw, connection.msgtype)
                        header = getattr(content, "header", None)
                        time_ns = header.stamp.sec * 1_000_000_000 + header.stamp.nanosec if header else 0
                    except Exception:  # whatever the parser stumbles over; counted
                        self.unreadable[connection.topic] += 1
                        continue
                    yield Stamped(connection.topic, (time_ns or recorded_ns) / 1e9, content)

    def _raw_messages(self, reader: AnyReader, connections: list[Any], part: Path) -> Iterator[tuple[Any, int, bytes]]:
        try:
            yield from reader.messages(connections)
        except Exception as error:  # of the storage, its compression or the disk, each with classes of its own
            self._report(f"{part.name} cannot be read to its end ({_reason(error)})")

    def _open_parts(self, scratch: Path) -> list[Path]:
        """The bag as a whole if it opens, else those of its files that do, cut ones mended."""
        if self.path.suffix == ".bag":
            raise InputError(
                f"{self.path}: a ROS 1 bag; expected a ROS 2 bag: rosbags-convert --src {self.path.name} --dst new converts it"
            )
        reason = _why_not(self.path)
        if not reason:
            return [self.path]
        parts = []
        for file in sorted(self.path.iterdir(), key=_part_number) if self.path.is_dir() else [self.path]:
            if file.suffix not in STORAGE:
                continue
            fault = _why_not(file)
            if fault and file.suffix == ".mcap" and not _why_not(mended := mend_mcap(file, scratch / file.name)):
                self._report(f"{file.name} was cut off ({fault}), its last messages are missing")
                file, fault = mended, ""
            if fault:
                self._report(f"{file.name} cannot be read ({fault})")
            else:
                parts.append(file)
        if not parts:
            raise InputError(
                f"{self.path}: not a bag that can be read ({reason}); expected a ROS 2 bag, MCAP or sqlite3 (whose own .recover "
                "command may save a cut-off .db3)"
            )
        if self.path.is_dir():
            self._report(f"the folder is not whole ({reason}), its files are read one by one")
        return parts

    def _report(self, text: str) -> None:
        if text not in self.damage:
            self.damage.append(text)


def mend_mcap(file: Path, target: Path) -> Path:
    """Write the whole records of a cut-off MCAP file to `target` and end them as its specification asks; return `target`.

    The end of a recording, with its index, is written last: without it readers refuse the file, however much it holds.
    """
    with file.open("rb") as source, target.open("wb") as copy:
        end, size = len(_MAGIC), file.stat().st_size
        while True:
            source.seek(end)
            head = source.read(9)
            after = end + 9 + int.from_bytes(head[1:], "little")
            if len(head) < 9 or after > size or head[:1] in (_DATA_END, _FOOTER):
                break
            end = after
        source.seek(0)
        _copy(source, copy, end)
        copy.write(_DATA_END + (4).to_bytes(8, "little") + bytes(4))  # its checksum 0: none
        copy.write(_FOOTER + (20).to_bytes(8, "little") + bytes(20))  # no summary
        copy.write(_MAGIC)
    return target


def _copy(source: BinaryIO, target: BinaryIO, count: int) -> None:
    while block := source.read(min(count, _COPY_BYTES)):
        target.write(block)
        count -= len(block)


def _open(path: Path) -> AnyReader:
    return AnyReader([path], default_typestore=_ros_types())


@cache
def _ros_types() -> Any:
    """Message definitions for bags that bring none; their making takes a while."""
    return get_typestore(Stores.ROS2_JAZZY)


def _why_not(path: Path) -> str:
    """Why rosbags cannot open the path; empty if it can."""
    try:
        with _open(path):
            return ""
    except Exception as error:  # rosbags' own, or whatever its parsers and the storage stumble over
        return _reason(error)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")


def _part_number(file: Path) -> tuple[int, str]:
    """Order of the files that a long recording is split into: name_0, name_1, ..., name_10."""
    number = file.stem.rpartition("_")[2]
    return (int(number) if number.isdecimal() else 0, file.name)

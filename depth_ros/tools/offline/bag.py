"""A bag of answers that survives being cut short: written in parts, which are put together at the end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rclpy.serialization import serialize_message
from rosbags.rosbag2 import Reader

from depth_ros.tools.offline.manifest import write_whole
from depth_ros.tools.record import BagFile

PART = 100  # images; as many are answered again after a crash
QUEUE = 8  # images whose messages wait for the disk


class PartedBag:
    """An MCAP file `file` with the topics `topics` (name -> sensor_msgs class).

    Raises record.RecordingError or OSError if the disk cannot take it.
    """

    def __init__(self, file: Path, topics: Mapping[str, type]) -> None:
        self._file, self._topics = file, topics
        self._folder = file.with_suffix(".parts")
        self._folder.mkdir(exist_ok=True)
        self._names = {name for listed in self._finished() for name in json.loads(listed.read_text(encoding="utf-8"))}
        self._bag: BagFile | None = None
        self._handles: dict[str, Any] = {}
        self._written: list[str] = []  # names of the images in the part that is open

    def has(self, name: str) -> bool:
        """Return whether the image called `name` is in a part that is finished."""
        return name in self._names

    def write(self, name: str, time_ns: int, messages: Mapping[str, object]) -> None:
        """Append the messages (topic -> message) of the image called `name`."""
        if self._bag is not None and self._bag.error is not None:
            self._bag.close()  # says so
        if self._bag is None:
            self._bag, self._handles = self._open(self._part(len(self._finished())))
        for topic, message in messages.items():
            self._bag.put(self._handles[topic], time_ns, serialize_message(message))
        self._written.append(name)
        if len(self._written) >= PART:
            self.close()

    def close(self) -> None:
        """Finish the part that is open; its list of names is written last and says that it is whole."""
        if self._bag is not None:
            part, bag, self._bag = self._bag.path, self._bag, None
            bag.close()
            write_whole(part.with_suffix(".json"), json.dumps(self._written).encode())
            self._written = []

    def finish(self) -> None:
        """Put the parts together, when all images are there."""
        parts = [self._part(number) for number in range(len(self._finished()))]
        if len(parts) == 1:
            parts[0].replace(self._file)
        else:
            bag, handles = self._open(self._file)
            for topic, time_ns, data in _messages(parts):
                bag.put(handles[topic], time_ns, data)
            bag.close()
        shutil.rmtree(self._folder)

    def _open(self, path: Path) -> tuple[BagFile, dict[str, Any]]:
        bag = BagFile(path, QUEUE * len(self._topics))
        return bag, {topic: bag.add_topic(topic, kind) for topic, kind in self._topics.items()}

    def _part(self, number: int) -> Path:
        return self._folder / f"{number:06d}.mcap"

    def _finished(self) -> list[Path]:
        return sorted(listed for listed in self._folder.glob("*.json") if listed.with_suffix(".mcap").is_file())


def _messages(parts: Sequence[Path]) -> Iterator[tuple[str, int, bytes]]:
    for part in parts:
        with Reader(part) as reader:
            for connection, time_ns, data in reader.messages():
                yield connection.topic, time_ns, data

"""The demo's recorder without its bag: notes when each message arrived and keeps nothing else.

    python -m benchmarks.receiver RECEIPTS.csv

Writes topic, stamp [ns] and receipt [ns] of every message when SIGINT or SIGTERM ends it.
"""

from __future__ import annotations

import csv
import signal
import sys
import threading
from pathlib import Path

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from depth_ros.tools.record import STAMP, Recorder


class Receipts:
    """Stands where the recorder has its BagFile."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, int, int]] = []  # topic, stamp, receipt

    def add_topic(self, topic: str, kind: type) -> str:
        """Return the handle that put() takes."""
        return topic

    def put(self, topic: str, receipt_ns: int, data: bytes) -> None:
        """Note one serialised message."""
        seconds, nanoseconds = STAMP.unpack_from(data)
        self.rows.append((topic, seconds * 1_000_000_000 + nanoseconds, receipt_ns))


def main() -> None:
    """Command line."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    receipts = Receipts()
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    executor = SingleThreadedExecutor()
    executor.add_node(Recorder(receipts))
    while not stop.is_set():
        executor.spin_once(timeout_sec=0.1)
    executor.shutdown()
    rclpy.try_shutdown()
    with Path(sys.argv[1]).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(receipts.rows)


if __name__ == "__main__":
    main()

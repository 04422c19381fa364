"""The node as it is, with a stopwatch put around the functions it calls.

    python -m benchmarks.timed_node TIMES.json --ros-args ...

Writes a list with one object per answered image when it ends: milliseconds of each stage, `own` (from the image callback to
the return of the last publish, without the engine), `rest` (what of `own` belongs to no stage) and `own_cpu` (processor time of
the worker thread outside the engine: what remains of `own` where no other process is in the way).
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from functools import wraps
from pathlib import Path
from typing import Any

from rclpy.lifecycle import LifecyclePublisher

from depth_ros import answers, estimator
from depth_ros.cloud import CloudBuilder
from depth_ros.estimator import Estimator
from depth_ros.images import Rectifier
from depth_ros.ros import loading, messages, node
from depth_ros.ros.answering import Answering
from depth_ros.ros.camera import Camera

STAGES: dict[str, tuple[tuple[Any, str], ...]] = {  # stage -> where the node looks its functions up; none calls another
    "decode": ((messages, "camera_model"), (messages, "image_array")),
    "rectify": ((Rectifier, "__call__"),),
    "resize": ((estimator, "resize_image"),),
    "mask": ((Estimator, "_finish"),),
    "upsample": ((answers, "upsample"),),
    "cloud": ((CloudBuilder, "build"),),
    "messages": tuple((messages, name) for name in ("camera_info", "depth_image", "color_image", "point_cloud")),
    "publish": ((LifecyclePublisher, "publish"),),
}


class Stopwatch:
    """Adds up the stages of the image that the node's worker is at."""

    def __init__(self) -> None:
        self.frames: list[dict[str, float]] = []  # ms
        self._spent_ns: Counter[str] = Counter()
        self._engine_cpu_ns = 0
        self._arrived_ns: dict[int, int] = {}  # id of a message -> when its callback began

    def attach(self) -> None:
        """Replace the functions by timed ones; call before the node is made."""
        for stage, functions in STAGES.items():
            for owner, name in functions:
                self._time(owner, name, stage)
        choose_engine, on_image, work = loading.choose_engine, Camera._on_image, Answering._work

        def timed_choice(*arguments: Any) -> Any:
            choice = choose_engine(*arguments)
            engine = choice.engine
            infer = engine.infer

            def infer_counting_cpu(images: Any) -> Any:
                start_ns = time.thread_time_ns()
                result = infer(images)
                self._engine_cpu_ns = time.thread_time_ns() - start_ns
                return result

            engine.infer = infer_counting_cpu
            self._time(engine, "infer", "engine")
            return choice

        def timed_on_image(self_: Camera, hand_over: Any, image: Any) -> None:
            self._arrived_ns[id(image)] = time.perf_counter_ns()
            on_image(self_, hand_over, image)

        def timed_work(self_: Answering, items: Any) -> None:
            ((image, _),) = items.values()  # of the only camera
            self._spent_ns.clear()
            self._spent_ns["hand-over"] = time.perf_counter_ns() - self._arrived_ns[id(image)]
            start_cpu_ns = time.thread_time_ns()
            work(self_, items)
            own_cpu_ns = time.thread_time_ns() - start_cpu_ns - self._engine_cpu_ns
            self._finish(time.perf_counter_ns() - self._arrived_ns[id(image)], own_cpu_ns)

        loading.choose_engine, Camera._on_image, Answering._work = timed_choice, timed_on_image, timed_work

    def _time(self, owner: Any, name: str, stage: str) -> None:
        function = getattr(owner, name)

        @wraps(function)
        def timed(*arguments: Any, **keywords: Any) -> Any:
            start = time.perf_counter_ns()
            result = function(*arguments, **keywords)
            self._spent_ns[stage] += time.perf_counter_ns() - start
            return result

        setattr(owner, name, timed)

    def _finish(self, total_ns: int, own_cpu_ns: int) -> None:
        own_ns = total_ns - self._spent_ns["engine"]
        rest_ns = total_ns - self._spent_ns.total()
        spent = {**self._spent_ns, "rest": rest_ns, "own": own_ns, "own_cpu": own_cpu_ns}
        self.frames.append({stage: value / 1e6 for stage, value in spent.items()})


def main() -> int:
    """Command line; returns the node's exit code."""
    stopwatch = Stopwatch()
    stopwatch.attach()
    code = node.main(sys.argv)
    Path(sys.argv[1]).write_text(json.dumps(stopwatch.frames), encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main())

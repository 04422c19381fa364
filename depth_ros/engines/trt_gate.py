"""The numeric gate (depth_ros.engines.gate, frame_gate) for plans that were just built."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

from depth_ros.bundle import ModelBundle
from depth_ros.engines import EngineOptions, frame_gate, gate
from depth_ros.engines.plans import Plan, PlanKey
from depth_ros.engines.trt import SLOTS, TensorRtEngine, open_runner
from depth_ros.engines.trt_build import Check
from depth_ros.engines.trt_package import Gpu


def make_check(trt: Any, bundle: ModelBundle, options: EngineOptions, gpu: Gpu) -> Check:
    """Check(plan's bytes, key) -> verdict, on the images that the bundle or the package carries."""

    def check(data: bytes, key: PlanKey) -> gate.GateReport:
        plan = Plan(key, Path(f"{key.stem}.plan"), data)
        if key.frame:
            width, height = map(int, key.frame.split("x"))
            images = gate.load_frames(bundle, size=(width, height))
            reference = frame_gate.open_reference(bundle, width, height)
            with closing(reference), closing(open_runner(trt, options, plan)) as frames:
                return frame_gate.check_frames(frames, reference, bundle, images, key.precision)
        runner = open_runner(trt, options, plan, SLOTS)
        with closing(TensorRtEngine(trt, bundle, options, gpu, plan, runner)) as engine:
            return gate.check(engine, bundle, gate.load_frames(bundle), key.precision)

    return check

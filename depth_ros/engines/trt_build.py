"""Builds TensorRT engines (plans) from a bundle: parse, build, compare with ONNX Runtime, keep.

Uses only names that TensorRT 10.3 to 11.4 and TensorRT-RTX have. Networks are strongly typed: the precision stands in the graph
that depth_ros.graphs prepares, and TensorRT may not choose another.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from depth_ros.bundle import ModelBundle
from depth_ros.engines import EngineError, EngineOptions
from depth_ros.engines.gate import GateReport
from depth_ros.engines.plan_keys import Device, PlanKey, plan_key
from depth_ros.engines.plans import Plan, PlanCache, write_atomically
from depth_ros.engines.trt_progress import make_log, make_monitor

LOG = logging.getLogger(__name__)
FALL_BACK = "fp32"


Check = Callable[[bytes, PlanKey], GateReport]  # the numeric gate of a plan


@dataclass(frozen=True)
class PlanBuilder:
    """Provides the plans of one bundle for one device; a plan that `check` does not let pass is never given out."""

    trt: Any  # the module tensorrt or tensorrt_rtx
    bundle: ModelBundle
    options: EngineOptions
    device: Device
    check: Check

    def provide(self, frame: tuple[int, int] | None = None, force: bool = False) -> Plan:
        """The plan that the options ask for, built if it is not in the cache (`force`: built anew).

        `frame` is the camera's (width, height) of a frame graph, None for the plain network. Where the precision asked for does
        not pass, fp32 is built, and remembered as what to use. One process at a time builds a plan; others wait and use it.
        Raises EngineError: not readable by TensorRT, cache not writable, or fp32 does not pass either.
        """
        key = plan_key(self.bundle, self.options, self.device, frame)
        cache = PlanCache(self.options.cache)
        found = None if force else cache.find(key)
        if found and not found.reason:
            return found  # without the lock: a cache that is complete may be read only
        with cache.lock(key, self.options.progress):
            found = None if force else cache.find(key)
            if found and not found.reason:
                return found
            if found and "refused" in found.details:
                raise EngineError(found.reason)
            if found:
                self.options.progress(found.reason)
            built = self._build(cache, key, frame)
            return built if not built.reason else replace(self._in_fp32().provide(frame, force), refused=built.reason)

    def _in_fp32(self) -> PlanBuilder:
        return replace(self, options=replace(self.options, precision=FALL_BACK))

    def _build(self, cache: PlanCache, key: PlanKey, frame: tuple[int, int] | None) -> Plan:
        """Build, check and store one plan, or say in its `reason` why fp32 has to be used instead."""
        title = " ".join(filter(None, [self.bundle.name, key.precision, key.frame]))
        started = time.monotonic()
        data = self._plan(cache, key, frame, title)
        seconds = time.monotonic() - started
        self.options.progress(f"comparing {title} with ONNX Runtime")
        report = self.check(data, key)
        details = {
            "built": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "build_seconds": round(seconds, 1),
            "workspace_mb": self.options.workspace_mb,
            "gate": report.as_dict(),
        }
        if report.passed:
            return cache.store(key, data, details)
        why = report.describe()
        exact = replace(self.options, precision=FALL_BACK)
        instead = None if key.precision == FALL_BACK else plan_key(self.bundle, exact, self.device, frame)
        refused = cache.refuse(key, why, instead, details)
        if instead is None:
            raise EngineError(f"{title}: {key.backend} {key.version} gives wrong depth and is not used: {why}")
        self.options.progress(f"{title} is not used: {why}; building {FALL_BACK} instead")
        return refused

    def _plan(self, cache: PlanCache, key: PlanKey, frame: tuple[int, int] | None, title: str) -> bytes:
        from depth_ros import graphs  # with the package onnx, which a robot that does not build need not have

        graph = (
            graphs.prepare(self.bundle, key.precision)
            if frame is None
            else graphs.frame_graph(self.bundle, *frame, key.precision)
        )
        name = re.sub(r"[^\w.-]+", "_", f"{key.backend}-{key.version}-{key.gpu}")
        timing = cache.folder / f"{name}.timing" if key.backend == "tensorrt" else None  # TensorRT-RTX measures nothing
        return build_plan(self.trt, graph, self.options, title, str(self.bundle.graph_path), timing)


def build_plan(
    trt: Any, graph: bytes, options: EngineOptions, title: str = "model", source: str = "model.onnx", timing: Path | None = None
) -> bytes:
    """Serialized engine of an ONNX graph. Needs no GPU with TensorRT-RTX, which is how it is tested.

    `timing` is a file that keeps TensorRT's measurements from one build to the next. Raises EngineError.
    """
    log = make_log(trt)
    try:
        builder = trt.Builder(log)
    except TypeError as error:  # TensorRT's way of saying that CUDA did not start
        raise EngineError(f"{trt.__name__} cannot start: {log.last_error or error}") from error
    network = parse(trt, builder, log, graph, source)
    config, monitor = configure(trt, builder, network, options, title)
    if timing:
        _load_timing(config, timing)
    plan = builder.build_serialized_network(network, config)
    if monitor and monitor.interrupted:
        raise monitor.interrupted
    if plan is None:
        raise EngineError(f"{source}: {trt.__name__} {trt.__version__} cannot build it: {log.last_error}")
    if timing:
        _save_timing(config, timing)
    return bytes(plan)


def parse(trt: Any, builder: Any, log: Any, graph: bytes, source: str) -> Any:
    """Strongly typed network of an ONNX graph. Raises EngineError naming file, node and reason."""
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(graph) or not network.num_outputs:  # TensorRT takes an empty file for a graph without any
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        reasons = [f"node '{error.node_name()}' ({error.node_operator()}): {error.desc()}" for error in errors]
        reason = " ".join("; ".join(reasons or ["it holds no graph"]).split())
        raise EngineError(f"{source}: {trt.__name__} {trt.__version__} cannot read it: {reason}")
    return network


def configure(trt: Any, builder: Any, network: Any, options: EngineOptions, title: str) -> tuple[Any, Any]:
    """Builder configuration, and its progress monitor (None where TensorRT has none). Raises EngineError."""
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mb << 20)
    # fp32 means fp32: it is what a wrong fp16 falls back to, and 10 bits of mantissa would spoil the frame graph's resizing
    config.clear_flag(trt.BuilderFlag.TF32)
    profile = make_profile(builder, network, options.batch)
    if profile is not None:
        config.add_optimization_profile(profile)
    monitor = None
    if hasattr(trt, "IProgressMonitor"):
        monitor = make_monitor(trt, lambda share: options.progress(f"building {title}: {100 * share:.0f} %"))
        config.progress_monitor = monitor
    return config, monitor


def make_profile(builder: Any, network: Any, batch: int) -> Any:
    """Optimisation profile for 1 to `batch` images; None for a graph exported for a single image, which has no choice.

    It is tuned for `batch` images: who asks for a batch has that many cameras, and waits for all of them. Raises EngineError.
    """
    profile = builder.create_optimization_profile()
    is_open = False
    for tensor in (network.get_input(index) for index in range(network.num_inputs)):
        number, *size = tensor.shape
        if -1 in size:
            raise EngineError(f"input '{tensor.name}' is {(number, *size)}; expected only the number of images to be open")
        if number == -1:
            profile.set_shape(tensor.name, (1, *size), (batch, *size), (batch, *size))
            is_open = True
    return profile if is_open else None


def _load_timing(config: Any, file: Path) -> None:
    """Give the build the measurements of earlier ones; a file of another version or GPU counts as empty."""
    stored = file.read_bytes() if file.is_file() else b""
    if not config.set_timing_cache(config.create_timing_cache(stored), ignore_mismatch=False):
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)


def _save_timing(config: Any, file: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, bytes(config.get_timing_cache().serialize()))
    except (EngineError, OSError) as error:
        LOG.warning("the next build will take as long as this one: %s", error)

"""TensorRT 10.3 to 11.x and TensorRT-RTX, through one code path: only names that all of them have.

load() runs a plan from the cache (depth_ros.engines.plans); depth_ros.engines.trt_build makes one. All calls of an engine come
from one thread, save load() and close(), which may come from another one while no other call is under way.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from depth_ros.bundle import ModelBundle
from depth_ros.engines import EngineError, EngineOptions
from depth_ros.engines.contract import check_image, check_tensors
from depth_ros.engines.cuda_memory import open_memory
from depth_ros.engines.plan_keys import Device, PlanKey, plan_key
from depth_ros.engines.plans import Plan, PlanCache
from depth_ros.engines.trt_package import find_device, import_tensorrt
from depth_ros.engines.trt_progress import make_log
from depth_ros.engines.trt_runner import PlanRunner, Tensor
from depth_ros.types import Float32Array, InputError, UInt8Array

if TYPE_CHECKING:
    from depth_ros.engines.trt_build import Check

LOG = logging.getLogger(__name__)
OUTPUTS = ("depth", "sigma")
SLOTS = 2  # images of one travel while the device computes the other


class UnreadablePlanError(EngineError):
    """A plan that TensorRT does not take; building it again may help."""


def load(bundle: ModelBundle, options: EngineOptions, name: str) -> TensorRtEngine:
    """Run the bundle's plan for this GPU; without one, build it if the options allow that.

    Raises MissingBackendError without package, driver or GPU, EngineError for everything else.
    """
    trt = import_tensorrt(name)
    device = find_device(trt, options)
    plan, reason = find(trt, bundle, options, device)
    if plan is None and not options.build_if_missing:
        raise EngineError(f"{reason}; run: {_command(bundle, options, trt)}")
    plan, runner = _open(trt, bundle, options, device, plan, slots=SLOTS)
    return TensorRtEngine(trt, bundle, options, device, plan, runner)


def find(
    trt: Any, bundle: ModelBundle, options: EngineOptions, device: Device, frame: tuple[int, int] | None = None
) -> tuple[Plan | None, str]:
    """The usable plan in the cache, or None and why there is none."""
    plan = PlanCache(options.cache).find(plan_key(bundle, options, device, frame))
    if plan is None:
        size = f" for {frame[0]}x{frame[1]} images" if frame else ""
        return None, f"no plan{size} for {device.gpu} in {options.cache}"
    if plan.reason:
        return None, plan.reason
    if plan.refused:
        LOG.warning("%s: %s runs instead", plan.refused, plan.key.precision)
    return plan, ""


def build(
    trt: Any,
    bundle: ModelBundle,
    options: EngineOptions,
    device: Device,
    frame: tuple[int, int] | None = None,
    force: bool = False,
) -> Plan:
    """A plan that is built and compared with ONNX Runtime now, unless another process has just done so. Raises EngineError."""
    from depth_ros.engines import trt_build  # with what only a build needs

    check = make_check(trt, bundle, options, device)
    return trt_build.PlanBuilder(trt, bundle, options, device, check).provide(frame, force)


def make_check(trt: Any, bundle: ModelBundle, options: EngineOptions, device: Device) -> Check:
    """The numeric gate for plans that were just built, on the images that the bundle or the package carries."""
    from depth_ros.engines import frame_gate, gate

    def check(data: bytes, key: PlanKey) -> gate.GateReport:
        plan = Plan(key, Path(f"{key.stem}.plan"), data)
        if not key.frame:
            with closing(TensorRtEngine(trt, bundle, options, device, plan, open_runner(trt, options, plan, SLOTS))) as engine:
                return gate.check(engine, bundle, gate.load_frames(bundle), key.precision)
        width, height = map(int, key.frame.split("x"))
        reference = frame_gate.open_reference(bundle, width, height)
        with closing(reference), closing(open_runner(trt, options, plan)) as runner:
            images = gate.load_frames(bundle, size=(width, height))
            return frame_gate.check_frames(runner, reference, bundle, images)

    return check


class TensorRtEngine:
    """Engine (see depth_ros.engines) over one plan. Raises EngineError if it cannot be run or is not the bundle's."""

    def __init__(
        self, trt: Any, bundle: ModelBundle, options: EngineOptions, device: Device, plan: Plan, runner: PlanRunner
    ) -> None:
        self._trt, self._bundle, self._options, self._device = trt, bundle, options, device
        self.precision, self._runner = plan.key.precision, runner
        try:
            check_tensors(bundle, _described(self._runner.inputs), _described(self._runner.outputs))
        except EngineError as error:
            self.close()
            raise EngineError(f"{plan.path} is not a plan of this model: {error}") from error
        self._batch = self._runner.inputs["image"].largest[0]

    def infer(self, image: UInt8Array) -> tuple[Float32Array, Float32Array]:
        """Map RGB images (N, h, w, 3) uint8 to depth [m] and sigma [m], each (N, h, w) float32. Raises EngineError.

        More images than the plan takes at once go in turns: the next ones are sent while the present ones are computed.
        """
        check_image(self._bundle, image)
        depth, sigma = np.empty(image.shape[:3], np.float32), np.empty(image.shape[:3], np.float32)
        with self._runner.current():
            waiting: list[tuple[int, int]] = []  # (first image, slot) of what the device works on
            for turn, first in enumerate(range(0, len(image), self._batch)):
                self._runner.start({"image": image[first : first + self._batch]}, OUTPUTS, turn % SLOTS)
                waiting.append((first, turn % SLOTS))
                if len(waiting) == SLOTS:
                    self._collect(*waiting.pop(0), depth, sigma)
            for first, slot in waiting:
                self._collect(first, slot, depth, sigma)
        return depth, sigma

    def open_frame_graph(self, width: int, height: int) -> PlanRunner | None:
        """The frame graph for images of this size; None, with the reason in the log, where there is none that works."""
        trt, bundle, options, device = self._trt, self._bundle, self._options, self._device
        frame = (width, height)
        plan, reason = find(trt, bundle, options, device, frame)
        if plan is None and not options.build_if_missing:
            command = _command(bundle, options, trt, frame)
            LOG.info("%dx%d images are resized on the CPU: %s; run: %s", *frame, reason, command)
            return None
        try:
            return _open(trt, bundle, options, device, plan, frame)[1]
        except (EngineError, InputError) as error:  # the network runs without: no reason to refuse images, or to build for each
            LOG.warning("%dx%d images are resized on the CPU: %s", *frame, error)
            return None

    def describe(self) -> str:
        """One line for logs: backend, version, GPU, precision, batch, what manages its memory."""
        name = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}[self._trt.__name__]
        gpu = f"{self._device.gpu} (compute capability {self._device.compute_capability})"
        graph = ", CUDA graph" if self._runner.captures else ""
        return f"{name} {self._trt.__version__}, {gpu}, {self.precision}, batch {self._batch}, {self._runner.memory_name}{graph}"

    def close(self) -> None:
        """Free everything on the device."""
        self._runner.close()

    def _collect(self, first: int, slot: int, depth: Float32Array, sigma: Float32Array) -> None:
        results = self._runner.finish(slot)
        for name, whole in (("depth", depth), ("sigma", sigma)):
            whole[first : first + len(results[name])] = results[name]


def _open(
    trt: Any,
    bundle: ModelBundle,
    options: EngineOptions,
    device: Device,
    plan: Plan | None,
    frame: tuple[int, int] | None = None,
    slots: int = 1,
) -> tuple[Plan, PlanRunner]:
    """The plan on the device; it is built where there is none, or none that TensorRT reads, as far as the options allow."""
    if plan is None:
        plan = build(trt, bundle, options, device, frame)
    try:
        return plan, open_runner(trt, options, plan, slots)
    except UnreadablePlanError as error:
        if not options.build_if_missing:
            raise EngineError(f"{error}; run: {_command(bundle, options, trt, frame)} --force") from error
        LOG.warning("%s; it is built again", error)
        plan = build(trt, bundle, options, device, frame, force=True)
        return plan, open_runner(trt, options, plan, slots)


def open_runner(trt: Any, options: EngineOptions, plan: Plan, slots: int = 1) -> PlanRunner:
    """The plan on the device. Raises EngineError with TensorRT's reason where it cannot be read."""
    memory = open_memory(options.memory)
    try:
        with memory.current():
            engine, log = _deserialise(trt, plan)
            return PlanRunner(trt, engine, log, memory, plan.key.precision, options.cuda_graph, slots)
    except BaseException:
        memory.close()
        raise


def _deserialise(trt: Any, plan: Plan) -> tuple[Any, Any]:
    log = make_log(trt)
    try:
        runtime = trt.Runtime(log)  # the engine keeps it alive
    except (TypeError, RuntimeError) as error:  # TypeError is how the bindings say that CUDA did not start
        raise EngineError(f"{trt.__name__} cannot start: {log.last_error}") from error
    engine = runtime.deserialize_cuda_engine(plan.data)
    if engine is None:
        raise UnreadablePlanError(f"{plan.path}: {trt.__name__} {trt.__version__} cannot read the plan: {log.last_error}")
    return engine, log


def _described(tensors: Mapping[str, Tensor]) -> dict[str, tuple[str, list[int | None]]]:
    return {
        name: (str(tensor.dtype), [None if size == -1 else size for size in tensor.shape]) for name, tensor in tensors.items()
    }


def _command(bundle: ModelBundle, options: EngineOptions, trt: Any, frame: tuple[int, int] | None = None) -> str:
    """How a user builds the plan that is missing."""
    parts = ["ros2", "run", "depth_ros", "build_engine", "--model", str(bundle.path), "--engine", trt.__name__]
    defaults = EngineOptions()
    for name in ("precision", "batch", "workspace_mb", "memory", "cache"):
        value = getattr(options, name)
        parts += [f"--{name.replace('_', '-')}", str(value)] if value != getattr(defaults, name) else []
    parts += ["--frame", f"{frame[0]}x{frame[1]}"] if frame else []
    return shlex.join(parts)

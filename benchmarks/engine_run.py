"""One row of benchmarks/engines.py, in a process of its own: an engine is loaded, warmed up and timed; JSON to stdout.

Memory is what the process has grown by since before the engine's package was imported.
"""

from __future__ import annotations

import json
import sys
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from depth_ros import bundle as bundles
from depth_ros.bundle import ModelBundle
from depth_ros.engines import Engine, EngineError, EngineOptions, MissingBackendError, load_engine
from depth_ros.tools.timing import peak, percentiles, start_of_peak, time_calls
from depth_ros.types import UInt8Array

DISTINCT = 4  # batches of images, in turn: an engine may not send again what it holds


def main() -> int:
    """Measure the case in the first argument (a JSON object with the keys that measure() takes)."""
    case = json.loads(sys.argv[1])
    try:
        row = measure(**case)
    except EngineError as error:
        outcome = "missing" if isinstance(error, MissingBackendError) else "refused"
        row = {outcome: str(error).removeprefix(f"{case['engine']}: ")}  # a row names its engine
    print(json.dumps(row))
    return 0


def measure(path: str, engine: str, threads: int, precision: str, batch: int, seconds: float, cache: str) -> dict[str, Any]:
    """Time the bundle in folder `path`. Raises EngineError, MissingBackendError where this machine lacks the backend."""
    bundle = bundles.load(path)
    options = EngineOptions(threads, precision, batch, build_if_missing=True, cache=Path(cache))
    images = np.random.default_rng(0).integers(0, 256, (DISTINCT, batch, bundle.height, bundle.width, 3), np.uint8)
    on_device = threads == 0  # as engines.py asks for it
    before = _device_bytes() if on_device else start_of_peak()
    with closing(load_torch(bundle, options) if engine == "torch" else load_engine(bundle, engine, options)) as loaded:
        times, cpu_times = time_calls(partial(_infer, loaded, images), seconds)
        grown = _device_bytes() - before if on_device else peak() - before
        return {
            "describe": loaded.describe(),
            "runs": len(times),
            "ms": percentiles(1000 * np.array(times)),
            "cpu_ms": percentiles(1000 * np.array(cpu_times))["p50"],
            "images_per_s": round(batch * len(times) / sum(times), 2),
            "memory_mb": round(grown / 1e6, 1),
        }


def _infer(engine: Engine, images: UInt8Array, number: int) -> None:
    engine.infer(images[number % DISTINCT])


def load_torch(bundle: ModelBundle, options: EngineOptions) -> Engine:
    """The peer: the same network compiled by torch and replayed as a CUDA graph. Raises EngineError."""
    import torch

    if not torch.cuda.is_available():
        raise MissingBackendError("torch sees no CUDA device, and on a CPU it is no peer")
    from benchmarks.torch_peer import TorchPeer

    return TorchPeer(bundle, options.precision)


def _device_bytes() -> int:
    """Bytes in use on the GPU, by whatever; the first call makes this process's context, which does not count."""
    try:
        from cuda.bindings import runtime
    except ModuleNotFoundError as error:
        raise MissingBackendError("the GPU's memory is read through cuda-bindings; pip install cuda-bindings") from error
    status, free, total = runtime.cudaMemGetInfo()
    if status != runtime.cudaError_t.cudaSuccess:
        raise MissingBackendError(f"no CUDA device ({status.name})")
    return total - free


if __name__ == "__main__":
    sys.exit(main())

"""The ceilings of this machine: how much arithmetic and how much copying it does per second at best.

python benchmarks/roofline.py [--threads 1] [--cuda]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

SIZES = (384, 768, 1536)  # of square matrices: the smallest stays in a core's cache, the largest hides every start-up
CUDA_SIZES = (4096, 8192)
COPY_MB = 256  # many times the caches
SECONDS = 0.5  # of each trial
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")  # who fixes them before NumPy loads, fixes them


def main() -> int:
    """Command line: print the ceilings as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="of the CPU (default: 1)")
    parser.add_argument("--cuda", action="store_true", help="the ceilings of the GPU instead, through torch")
    options = parser.parse_args()
    if not options.cuda and any(os.environ.get(name) != str(options.threads) for name in THREADS):
        print(json.dumps(in_own_process(options.threads), indent=2))
    else:
        print(json.dumps(measure_cuda() if options.cuda else measure_cpu(options.threads), indent=2))
    return 0


def in_own_process(threads: int = 0, cuda: bool = False) -> dict[str, float]:
    """Ceilings in SI units ({"fp32": [FLOP/s], ..., "copy": [B/s]}) of a process that does nothing else; threads of the CPU."""
    environment = {**os.environ, **({} if cuda else dict.fromkeys(THREADS, str(threads)))}
    command = [sys.executable, __file__, *(["--cuda"] if cuda else ["--threads", str(threads)])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the ceilings could not be measured: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout)


def measure_cpu(threads: int) -> dict[str, float]:
    """fp32 products by the better of NumPy's BLAS and ONNX Runtime; copies by `threads` threads at once (read + written)."""
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np

    sources = np.ones((threads, COPY_MB // threads, 1 << 20), np.uint8)
    targets = np.zeros_like(sources)
    with ThreadPoolExecutor(threads) as pool:  # NumPy copies without holding Python's lock
        seconds = best_time(lambda: list(pool.map(np.copyto, targets, sources)))
    return {"fp32": max(_product_rate(size, threads) for size in SIZES), "copy": 2 * sources.nbytes / seconds}


def _product_rate(size: int, threads: int) -> float:
    """FLOP/s of the product of two square matrices, by whichever library is faster."""
    import numpy as np

    a, b = np.random.default_rng(0).random((2, size, size), np.float32)
    out = np.empty_like(a)
    session = _product_session(size, threads)
    seconds = min(best_time(lambda: np.matmul(a, b, out=out)), best_time(lambda: session.run(None, {"a": a, "b": b})))
    return 2 * size**3 / seconds


def _product_session(size: int, threads: int) -> Any:
    """The product a @ b in ONNX Runtime, whose kernels are those of its convolutions."""
    import onnxruntime as ort
    from onnx import TensorProto, helper

    matrices = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [size, size]) for name in "abc"}
    node = helper.make_node("MatMul", ["a", "b"], ["c"])
    graph = helper.make_graph([node], "product", [matrices["a"], matrices["b"]], [matrices["c"]])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")  # as in the engine
    return ort.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])


def measure_cuda() -> dict[str, float]:
    """Products in fp32 (without TensorFloat-32), tf32, fp16 and int8, and copies within the memory, all through torch."""
    import torch

    ceilings = {}
    kinds = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "int8": torch.int8}
    for name, dtype in kinds.items():
        torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
        for size in CUDA_SIZES:
            a, b = (torch.ones(size, size, device="cuda", dtype=dtype) for _ in range(2))
            multiply = torch._int_mm if dtype == torch.int8 else torch.matmul  # torch's only int8 product
            seconds = _best_cuda_time(lambda a=a, b=b, multiply=multiply: multiply(a, b))
            ceilings[name] = max(ceilings.get(name, 0.0), 2 * size**3 / seconds)
    source = torch.ones(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return {**ceilings, "copy": 2 * source.nbytes / _best_cuda_time(lambda: target.copy_(source))}


def _best_cuda_time(task: Callable[[], object], repeats: int = 10) -> float:
    """Seconds per call, by the host's clock around `repeats` calls: what starting them costs is hidden by the GPU's queue."""
    import torch

    def together() -> None:
        for _ in range(repeats):
            task()
        torch.cuda.synchronize()

    return best_time(together) / repeats


def best_time(task: Callable[[], object]) -> float:
    """Shortest of the calls within SECONDS, after one that does not count [s]."""
    task()
    best, end = float("inf"), time.perf_counter() + SECONDS
    while (start := time.perf_counter()) < end:
        task()
        best = min(best, time.perf_counter() - start)
    return best


if __name__ == "__main__":
    sys.exit(main())

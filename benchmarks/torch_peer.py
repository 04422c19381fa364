"""torch on a GPU behind the engines' interface, to compare them with: compiled, replayed as a CUDA graph."""

from __future__ import annotations

import torch

from benchmarks.engine_models import build
from depth_ros.bundle import ModelBundle
from depth_ros.engines import EngineError
from depth_ros.types import Float32Array, UInt8Array
from training.export import ExportGraph

DTYPES = {"fp32": torch.float32, "fp16": torch.float16}


class TorchPeer:
    """The network of a bundle that engine_models exported; images go up and maps come back, as with the engines."""

    def __init__(self, bundle: ModelBundle, precision: str) -> None:
        if precision not in DTYPES:
            raise EngineError(f"torch is compared in {' and '.join(DTYPES)}, not in {precision}")
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # nor do the engines in fp32
        name = bundle.name.rpartition("_")[0]
        network = ExportGraph(build(name, bundle.width, bundle.height)).eval().cuda()
        self._dtype = DTYPES[precision]
        self._run = torch.compile(network, mode="reduce-overhead")  # torch's name for CUDA graphs

    def infer(self, image: UInt8Array) -> tuple[Float32Array, Float32Array]:
        """See depth_ros.engines.Engine."""
        with torch.inference_mode(), torch.autocast("cuda", self._dtype, enabled=self._dtype != torch.float32):
            depth, sigma = self._run(torch.from_numpy(image).pin_memory().cuda(non_blocking=True))
            return depth.float().cpu().numpy(), sigma.float().cpu().numpy()

    def open_frame_graph(self, width: int, height: int) -> None:
        """See depth_ros.engines.Engine."""

    def describe(self) -> str:
        """See depth_ros.engines.Engine."""
        return f"torch {torch.__version__}, {torch.cuda.get_device_name()}, {self._dtype}, compiled, CUDA graph"

    def close(self) -> None:
        """See depth_ros.engines.Engine."""

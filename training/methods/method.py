"""What every method offers the trainer, the evaluation and the export."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from training.batch import Batch
from training.config import TrainConfig
from training.geometry import disparity_to_depth
from training.networks import DepthNet


class Method(nn.Module):
    """A depth network with its losses.

    The network predicts depth as seen through the training camera's focal length (`focal`, set from the data); through
    another camera the same picture is focal / `focal` times as far away. Losses use that, so that zoomed crops train too.
    """

    focal: Tensor  # (2,) fx, fy [px] of the training camera at the network's input size
    sigma_calibration: Tensor  # () factor on sigma, fitted at export
    metric: bool = True  # false: depth is true up to one factor

    def __init__(self, config: TrainConfig, outputs: int) -> None:
        super().__init__()
        self.config = config
        self.depth_net = DepthNet(config.network, outputs)
        self.register_buffer("focal", torch.ones(2))
        self.register_buffer("sigma_calibration", torch.ones(()))

    def prepare(self, load: Callable[[str], Method]) -> None:
        """Get what the losses need besides batches, before training starts; `load` opens a checkpoint. Nothing by default."""

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Weighted scalar terms whose sum is minimised."""
        raise NotImplementedError

    def health(self, batch: Batch) -> dict[str, Tensor]:
        """Figures that tell a collapse (limits in training/guards.py), as means over the batch.

        near, far: share of pixels at the ends of the depth range; contrast: standard deviation of log depth in an image.
        """
        depth, network = self.predict(batch.image)[0], self.config.network
        near, far = (depth < 1.01 * network.min_depth), (depth > 0.99 * network.max_depth)
        return {"near": near.float().mean(), "far": far.float().mean(), "contrast": depth.log().std(dim=(1, 2, 3)).mean()}

    def predict(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """RGB in [0, 1] (B, 3, H, W) -> depth [m] and sigma [m], each (B, 1, H, W), for a camera with `focal`."""
        raise NotImplementedError

    def to_depth(self, logits: Tensor) -> Tensor:
        """Depth [m] of disparity logits, for a camera with `focal`."""
        return disparity_to_depth(torch.sigmoid(logits), self.config.network.min_depth, self.config.network.max_depth)

    def focal_ratio(self, K: Tensor) -> Tensor:
        """Focal length of K (B, 3, 3) over the training camera's, geometric mean of x and y: (B, 1, 1, 1)."""
        ratio = torch.sqrt(K[:, 0, 0] * K[:, 1, 1] / self.focal.prod())
        return ratio[:, None, None, None]

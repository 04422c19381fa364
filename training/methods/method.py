"""What every method offers the trainer, the evaluation and the export."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from training.batch import Batch
from training.config import ConfigError, TrainConfig
from training.geometry import depth_to_disparity, disparity_to_depth
from training.networks import DepthNet
from training.uncertainty import build_uncertainty

LEAST_DISPARITY = 1e-5  # of the network's, in (0, 1): a logit within +-12
REFINED = "online refinement"  # of a model that was trained on the images it is judged by; never in one row with others
LEAST_SIGMA = 1e-3  # of the depth: passes that happen to agree do not make a pixel certain


class Predictor(nn.Module):
    """What can be judged and exported: depth and sigma of an image, in the geometry of the training camera."""

    focal: Tensor  # (2,) fx, fy [px] of the training camera at the network's input size
    sigma_calibration: Tensor  # () factor on sigma, fitted at export

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("focal", torch.ones(2))
        self.register_buffer("sigma_calibration", torch.ones(()))

    @property
    def kind(self) -> str:
        """What depth is true up to: one of depth_ros.bundle.KINDS."""
        return "metric"

    @property
    def metric(self) -> bool:
        """Whether depth is in metres."""
        return self.kind == "metric"

    @property
    def refined(self) -> bool:
        """Whether it was trained on the very images that it is judged by (online refinement)."""
        return bool(self.config.run.refine)

    def predict(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """RGB in [0, 1] (B, 3, H, W) -> depth and sigma [m, or by kind], each (B, 1, H, W), for a camera with `focal`."""
        depth, relative = self.predict_relative(image)
        return depth, self.sigma_calibration * relative.clamp(min=LEAST_SIGMA) * depth

    def predict_relative(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """As predict(), with sigma / depth, neither calibrated nor bounded, in place of sigma."""
        raise NotImplementedError


class Learner(Predictor):
    """What the trainer trains: losses over batches, and figures that tell whether all is well."""

    choices: tuple[str, ...] = ()  # keys of the configuration that may change after training: no weight depends on them

    @classmethod
    def idle_choices(cls, config: TrainConfig) -> dict[str, str]:
        """Those of `choices` that change nothing where the rest is as in `config`, and why. None by default."""
        return {}

    @property
    def passes(self) -> tuple[str, ...]:
        """Names of the methods that give losses; the optimiser takes a step for each of them, in turn, on every batch."""
        return ("losses",)

    def prepare(self, load: Callable[[str], Predictor]) -> None:
        """Get what the losses need besides batches, before training starts; `load` opens a checkpoint. Nothing by default."""

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Weighted scalar terms whose sum is minimised."""
        raise NotImplementedError

    def health(self, batch: Batch) -> dict[str, Tensor]:
        """Figures that tell a collapse (limits in training/guards.py), as means over the batch. None by default."""
        return {}


class Method(Learner):
    """A depth network with its losses, and the part that gives it a sigma (training/uncertainty.py).

    The network predicts depth as seen through the training camera's focal length (`focal`, set from the data); through
    another camera the same picture is focal / `focal` times as far away. Losses use that, so that zoomed crops train too.
    """

    default_sigma = "flip"  # where the configuration names none
    choices = ("method.sigma",)  # within what Uncertainty.serves() allows

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        self.uncertainty = build_uncertainty(config.method.sigma or self.default_sigma)
        self.depth_net = self._build_net()

    def _build_net(self) -> DepthNet:
        if self.uncertainty.diffusion:
            raise ConfigError(f"method.sigma is '{self.config.method.sigma}', which only monodiffusion has; expected another")
        outputs, width = 1 + self.uncertainty.outputs, self.config.data.width
        return DepthNet(self.config.network, outputs, self.uncertainty.dropout, width)

    def health(self, batch: Batch) -> dict[str, Tensor]:
        """See Learner.

        near, far: share of pixels at the ends of the depth range; contrast: standard deviation of log depth in an image.
        """
        depth, network = self.predict(batch.image)[0], self.config.network
        near, far = (depth < 1.01 * network.min_depth), (depth > 0.99 * network.max_depth)
        return {"near": near.float().mean(), "far": far.float().mean(), "contrast": depth.log().std(dim=(1, 2, 3)).mean()}

    def predict_relative(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """See Predictor."""
        return self.uncertainty.predict(self.depth_net, self.to_depth, image)

    def to_depth(self, logits: Tensor) -> Tensor:
        """Depth [m] of disparity logits, for a camera with `focal`."""
        return disparity_to_depth(torch.sigmoid(logits), self.config.network.min_depth, self.config.network.max_depth)

    def to_logit(self, depth: Tensor) -> Tensor:
        """The inverse of to_depth(); depths at or beyond the ends of the range get the logit just within it."""
        disparity = depth_to_disparity(depth, self.config.network.min_depth, self.config.network.max_depth)
        return torch.logit(disparity, eps=LEAST_DISPARITY)

    def focal_ratio(self, K: Tensor) -> Tensor:
        """Focal length of K (B, 3, 3) over the training camera's, geometric mean of x and y: (B, 1, 1, 1)."""
        ratio = torch.sqrt(K[:, 0, 0] * K[:, 1, 1] / self.focal.prod())
        return ratio[:, None, None, None]

"""A model bundle as a teacher: whatever network is inside, a student learns its depth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from depth_ros import bundle as bundles
from depth_ros.bundle import BundleError, ModelBundle
from depth_ros.engines import Engine, EngineError, load_engine
from training.config import ConfigError, DataConfig, MethodConfig, TrainConfig
from training.methods import Predictor
from training.methods.method import REFINED


class TeacherBundle(Predictor):
    """Runs a bundle's graph for images of a student's size, without gradients; the graph and its threads are shared by copies.

    `focal` is the bundle's at that size.
    """

    def __init__(self, bundle: ModelBundle, engine: Engine, data: DataConfig) -> None:
        super().__init__(TrainConfig(data=data, method=MethodConfig(name="bundle")))
        self.bundle, self.engine = bundle, engine
        self.focal.copy_(torch.tensor([bundle.fx * data.width / bundle.width, bundle.fy * data.height / bundle.height]))

    def __deepcopy__(self, memo: dict[int, Any]) -> TeacherBundle:
        return self

    @property
    def kind(self) -> str:
        """See Predictor."""
        return self.bundle.kind

    @property
    def refined(self) -> bool:
        """See Predictor."""
        return self.bundle.provenance.get("mode") == REFINED

    @torch.no_grad()
    def predict(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """See Predictor. What is beyond the bundle's range is its largest depth; what the node would call invalid is NaN."""
        size = (self.bundle.height, self.bundle.width)
        seen = F.interpolate(image, size=size, mode="bilinear", antialias=True) if image.shape[-2:] != size else image
        pixels = (255 * seen).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
        answers = self.engine.infer(pixels.cpu().numpy())
        depth, sigma = (torch.from_numpy(np.asarray(answer))[:, None].to(image.device) for answer in answers)
        depth = depth.clamp(max=self.bundle.max_depth)
        valid = torch.isfinite(depth) & (depth >= self.bundle.min_depth) & torch.isfinite(sigma) & (sigma > 0)
        if image.shape[-2:] == size:
            return torch.where(valid, depth, torch.nan), torch.where(valid, sigma, torch.nan)
        # Bilinear in inverse depth, as depth_ros.estimator.upsample has it; one invalid pixel spoils its neighbours here.
        inverse, share = torch.where(valid, 1 / depth, torch.nan), torch.where(valid, sigma / depth, torch.nan)
        inverse, share = (F.interpolate(values, size=image.shape[-2:], mode="bilinear") for values in (inverse, share))
        return 1 / inverse, share / inverse


def load_teacher_bundle(path: Path, data: DataConfig) -> TeacherBundle:
    """Open the bundle in a folder for students of `data`. Raises ConfigError."""
    try:
        bundle = bundles.load(path)
        return TeacherBundle(bundle, load_engine(bundle), data)
    except (BundleError, EngineError) as error:
        raise ConfigError(f"method.teachers: {error}") from error

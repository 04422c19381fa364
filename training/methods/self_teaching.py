"""Self-teaching (Poggi et al., CVPR 2020): a student learns its teacher's depth and how far it strays from it."""

from __future__ import annotations

import torch
from torch import Tensor

from training.batch import Batch
from training.config import ConfigError
from training.methods.supervised import Supervised
from training.methods.taught import TaughtDepth


class SelfTeaching(TaughtDepth, Supervised):
    """Supervised by frozen teachers, or by the true depth where a batch has it and method.supervised is not 0.

    With several teachers the target of each batch is one of them, drawn at random: the student learns their mean, and its
    sigma learns their disagreement too. A single teacher may be true up to one factor; so is its student then.
    """

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """As Supervised, with a teacher's depth where the batch has no true one that counts."""
        if batch.depth is not None and self.config.method.supervised > 0:
            if not self.metric:
                raise ConfigError("the teacher is not metric but a batch has true depth; set method.supervised: 0 to ignore it")
            return super().losses(batch)
        with torch.no_grad():
            # The teacher sees the plain image, the student the augmented one.
            teacher = self.teacher()
            depth = teacher.predict(batch.image)[0] * torch.sqrt(self.focal.prod() / teacher.focal.prod())
        valid = torch.isfinite(depth)  # a bundle's teacher leaves pixels out
        return self.log_depth_losses(batch.input, torch.log(torch.where(valid, depth, 1.0)), valid)

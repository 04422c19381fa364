"""Self-teaching (Poggi et al., CVPR 2020): a student learns its teacher's depth and how far it strays from it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from training.batch import Batch
from training.config import ConfigError, TrainConfig
from training.methods.method import Method
from training.methods.supervised import Supervised


class SelfTeaching(Supervised):
    """Supervised by frozen teachers, or by the true depth where a batch has it.

    With several teachers the target of each batch is one of them, drawn at random: the student learns their mean, and its
    sigma learns their disagreement too.
    """

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        if not config.method.teachers:
            raise ConfigError("method.teachers is empty; expected the checkpoints of trained teachers")
        # A plain list keeps the teachers out of the student's state_dict, optimiser and averaged weights.
        self.teachers: list[Method] = []

    def prepare(self, load: Callable[[str], Method]) -> None:
        """Load the teachers that the configuration names. Raises ConfigError."""
        self.set_teachers([load(path) for path in self.config.method.teachers])

    def set_teachers(self, teachers: list[Method]) -> None:
        """Give the trained teachers; they are used in evaluation mode, without gradients. Raises ConfigError."""
        if not all(teacher.metric for teacher in teachers):
            raise ConfigError(
                "a teacher's depth is not metric, so its student's were not; train it with poses or method.velocity"
            )
        self.teachers = [teacher.eval().requires_grad_(False) for teacher in teachers]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Negative log-likelihood of the target's log depth, mean over scales."""
        if batch.depth is not None:
            return super().losses(batch)
        with torch.no_grad():
            # The teacher sees the plain image, the student the augmented one.
            teacher = self._teacher()
            depth = teacher.predict(batch.image)[0] * torch.sqrt(self.focal.prod() / teacher.focal.prod())
        return {"likelihood": self._likelihood(batch.input, torch.log(depth), torch.ones_like(depth, dtype=torch.bool))}

    def _teacher(self) -> Method:
        index = int(torch.randint(len(self.teachers), ())) if self.training else 0
        return self.teachers[index].to(self.focal.device)

"""Self-teaching (Poggi et al., CVPR 2020): a student learns its teacher's depth and how far it strays from it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from training.batch import Batch
from training.config import ConfigError, TrainConfig
from training.methods.method import Predictor
from training.methods.supervised import Supervised


class SelfTeaching(Supervised):
    """Supervised by frozen teachers, or by the true depth where a batch has it and method.supervised is not 0.

    With several teachers the target of each batch is one of them, drawn at random: the student learns their mean, and its
    sigma learns their disagreement too. A single teacher may be true up to one factor; so is its student then.
    """

    taught_metres: Tensor  # () bool

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        if not config.method.teachers:
            raise ConfigError("method.teachers is empty; expected the checkpoints of trained teachers")
        self.register_buffer("taught_metres", torch.ones((), dtype=torch.bool))
        # A plain list keeps the teachers out of the student's state_dict, optimiser and averaged weights.
        self.teachers: list[Predictor] = []

    @property
    def metric(self) -> bool:  # type: ignore[override]
        """See Predictor; a checkpoint remembers its teachers' answer."""
        return bool(self.taught_metres)

    def prepare(self, load: Callable[[str], Predictor]) -> None:
        """Load the teachers that the configuration names. Raises ConfigError."""
        self.set_teachers([load(path) for path in self.config.method.teachers])

    def set_teachers(self, teachers: list[Predictor]) -> None:
        """Give the trained teachers; they are used in evaluation mode, without gradients. Raises ConfigError."""
        metric = all(teacher.metric for teacher in teachers)
        if len(teachers) > 1 and not metric:
            raise ConfigError("of several teachers one is not metric: their scales differ; expected one teacher, or metric ones")
        self.taught_metres.fill_(metric)
        self.teachers = [teacher.eval().requires_grad_(False) for teacher in teachers]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """As Supervised, with a teacher's depth where the batch has no true one that counts."""
        if batch.depth is not None and self.config.method.supervised > 0:
            if not self.metric:
                raise ConfigError("the teacher is not metric but a batch has true depth; set method.supervised: 0 to ignore it")
            return super().losses(batch)
        with torch.no_grad():
            # The teacher sees the plain image, the student the augmented one.
            teacher = self._teacher()
            depth = teacher.predict(batch.image)[0] * torch.sqrt(self.focal.prod() / teacher.focal.prod())
        return self.log_depth_losses(batch.input, torch.log(depth), torch.ones_like(depth, dtype=torch.bool))

    def _teacher(self) -> Predictor:
        index = int(torch.randint(len(self.teachers), ())) if self.training else 0
        return self.teachers[index].to(self.focal.device)

"""Methods that learn from trained ones: how they get their teachers, and whether they learn metres from them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from training.config import ConfigError, TrainConfig
from training.methods.method import Method, Predictor


class Taught(Method):
    """Frozen teachers from method.teachers, in evaluation mode whatever the student is in."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        # A plain list keeps the teachers out of the student's state_dict, optimiser, averaged weights and train().
        self.teachers: list[Predictor] = []

    def prepare(self, load: Callable[[str], Predictor]) -> None:
        """Load the teachers that the configuration names. Raises ConfigError."""
        self.set_teachers([load(path) for path in self.config.method.teachers])

    def set_teachers(self, teachers: list[Predictor]) -> None:
        """Give the trained teachers; they are used in evaluation mode, without gradients. Raises ConfigError."""
        self.teachers = [teacher.eval().requires_grad_(False) for teacher in teachers]

    def teacher(self) -> Predictor:
        """One of them, drawn at random in training."""
        index = int(torch.randint(len(self.teachers), ())) if self.training else 0
        return self.teachers[index].to(self.focal.device)


class TaughtDepth(Taught):
    """Learns its teachers' depth itself, in their unit: they are metric, or there is one alone that is true up to one factor."""

    taught_metres: Tensor  # () bool: a checkpoint remembers its teachers' answer

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        if not config.method.teachers:
            raise ConfigError("method.teachers is empty; expected the checkpoints of trained teachers")
        self.register_buffer("taught_metres", torch.ones((), dtype=torch.bool))

    @property
    def kind(self) -> str:
        """See Predictor: whatever the losses know of metres, depth is as its teachers'."""
        return "metric" if self.taught_metres else "scale_invariant"

    def set_teachers(self, teachers: list[Predictor]) -> None:
        """See Taught. Raises ConfigError."""
        for number, teacher in enumerate(teachers, 1):
            if teacher.kind == "affine_invariant":
                raise ConfigError(
                    f"method.teachers: number {number}, of method {teacher.config.method.name}, is affine_invariant: its depth "
                    f"has a scale and a shift of its own in every image, and {self.config.method.name} learns depth; make metres "
                    "of it first (training.fit_metric, or training.export --fit-metric), or choose method.name: midas"
                )
        metric = all(teacher.metric for teacher in teachers)
        if len(teachers) > 1 and not metric:
            raise ConfigError("of several teachers one is not metric: their scales differ; expected one teacher, or metric ones")
        self.taught_metres.fill_(metric)
        super().set_teachers(teachers)

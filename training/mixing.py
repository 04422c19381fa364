"""How the terms of a loss become one: their sum, or weights with which no term gets worse.

The latter is MGDA (Sener and Koltun, NeurIPS 2018), which MiDaS mixes datasets with: the terms are tasks, and the step goes along
the shortest vector in the convex hull of their gradients. To first order it lowers all of them; where it is 0, no step does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn

from training.config import ConfigError, TrainConfig
from training.devices import loss_scale
from training.guards import TrainingError

Floats = NDArray[np.float64]
MOST = 10  # terms: 1023 sets of them, some hundredths of a second
ROUNDING = 1e-12
# What each gradient is divided by before the hull is formed, of the absolute losses and the gradients' lengths.
NORMALISATIONS: dict[str, Callable[[Floats, Floats], Floats]] = {
    "none": lambda losses, lengths: np.ones_like(losses),
    "l2": lambda losses, lengths: lengths,
    "loss": lambda losses, lengths: losses,
    "loss+": lambda losses, lengths: losses * lengths,
}
LEAST_SIZE = 1e-12  # of what is divided by


def min_norm_weights(gram: Floats) -> Floats:
    """Weights (L,), not negative and of sum 1, of the shortest combination of L vectors with the products `gram` (L, L).

    Exact, for any number of vectors up to MOST: the shortest combination is that of those with a weight, left to themselves, so
    all sets of them are tried. (The reference has a closed form for two, clamped to 0.001 and 0.999, and iterates for more.) Of
    several with one result, such as equal vectors, as many as possible share the weight. Raises TrainingError for more than MOST.
    """
    count, lengths = len(gram), np.sqrt(np.maximum(gram.diagonal(), 0))
    if count > MOST:
        raise TrainingError(f"optim.mixing: pareto has {count} terms to weigh; expected at most {MOST}: set optim.mixing: sum")
    if not lengths.all():
        return (lengths == 0) / (lengths == 0).sum()
    cosines, units = gram / np.outer(lengths, lengths), lengths.min() / lengths  # of vectors of one length: no large numbers
    best, least = np.zeros(count), np.inf
    for chosen in (list(c) for size in range(1, count + 1) for c in combinations(range(count), size)):
        found = _stationary(cosines[np.ix_(chosen, chosen)], units[chosen])
        if found.min() < -ROUNDING or not units[chosen] @ found > ROUNDING:
            continue
        weights = np.zeros(count)
        weights[chosen] = found.clip(min=0) / (units[chosen] @ found.clip(min=0))
        square = weights @ cosines @ weights
        if square <= least + ROUNDING * abs(least):
            best, least = weights, square
    return best * units / (best @ units)


def _stationary(cosines: Floats, units: Floats) -> Floats:
    """Where x cosines x is stationary, with units x = 1: Lagrange's equations. Of several solutions the shortest."""
    count = len(units)
    system = np.zeros((count + 1, count + 1))
    system[:count, :count], system[count, :count], system[:count, count] = cosines, units, units
    return np.linalg.lstsq(system, np.append(np.zeros(count), 1.0), rcond=None)[0][:count]


def task_weights(gram: Floats, losses: Floats, normalisation: str) -> Floats:
    """Weights (L,) of losses whose gradients have the products `gram` (L, L); those of sum() are all 1.

    The common direction is the shortest in the hull of the gradients divided by NORMALISATIONS. So that all losses fall along it
    the weights contain that divisor too (the reference leaves it out). Their sum is the number of tasks. A loss without a
    gradient, such as that of a dataset with no sample in the batch, is no task, and weighs 1. Products that are not finite
    give 1: the step finds out.
    """
    weights, lengths = np.ones(len(gram)), np.sqrt(np.maximum(gram.diagonal(), 0))
    tasks = lengths > 0
    if not np.isfinite(gram).all() or not tasks.any():
        return weights
    sizes = np.maximum(NORMALISATIONS[normalisation](np.abs(losses), lengths)[tasks], LEAST_SIZE)
    found = min_norm_weights(gram[np.ix_(tasks, tasks)] / np.outer(sizes, sizes)) / sizes
    weights[tasks] = found * tasks.sum() / found.sum()
    return weights


class Sum:
    """All terms weigh the same."""

    def __init__(self, config: TrainConfig, method: nn.Module, fabric: Fabric) -> None:
        self.config, self.fabric = config, fabric

    def weights(self, terms: Mapping[str, Tensor], losses: Mapping[str, float]) -> dict[str, float]:
        """Weights of the scalar `terms`, whose means over all processes are `losses`; the same in all processes."""
        return dict.fromkeys(terms, 1.0)


class Pareto(Sum):
    """task_weights() of the gradients in the weights that optim.pareto_parameters finds. Raises ConfigError if it finds none."""

    def __init__(self, config: TrainConfig, method: nn.Module, fabric: Fabric) -> None:
        super().__init__(config, method, fabric)
        pattern = re.compile(config.optim.pareto_parameters)
        self.parameters = [p for name, p in method.named_parameters() if p.requires_grad and pattern.search(name)]
        if not self.parameters:
            some = ", ".join(dict.fromkeys(".".join(name.split(".")[:2]) for name, _ in method.named_parameters()))
            raise ConfigError(f"optim.pareto_parameters is '{pattern.pattern}', which no weight's name has in it; names: {some}")
        if fabric.world_size > 1 and config.run.precision != "32-true":
            raise ConfigError(
                f"run.precision is '{config.run.precision}' with optim.mixing: pareto in {fabric.world_size} processes; "
                "expected 32-true there, or one process"
            )

    def weights(self, terms: Mapping[str, Tensor], losses: Mapping[str, float]) -> dict[str, float]:
        """See Sum."""
        scale = loss_scale(self.fabric.strategy.precision)  # 16-bit gradients would vanish without; it cancels in the weights
        gradients = torch.stack([flat_gradient(scale * term, self.parameters) for term in terms.values()])
        gradients = self.fabric.all_reduce(gradients)
        gram = (gradients @ gradients.T).double().cpu().numpy()
        found = task_weights(gram, np.array([losses[name] for name in terms]), self.config.optim.pareto_normalisation)
        return dict(zip(terms, found.tolist(), strict=True))


MIXINGS: dict[str, type[Sum]] = {"sum": Sum, "pareto": Pareto}


def flat_gradient(term: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:
    """Gradient (N,) of a scalar with respect to all parameters, one after the other; the graph stays for the next one."""
    if not term.requires_grad:
        return torch.cat([torch.zeros_like(p).flatten() for p in parameters])
    found = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
    return torch.cat([g.flatten() for g in found])

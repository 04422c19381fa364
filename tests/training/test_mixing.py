"""Weights of loss terms: against a grid over the simplex, by what they promise, and in runs of one process and of two."""

from __future__ import annotations

import csv
from itertools import combinations_with_replacement
from pathlib import Path

import numpy as np
import pytest
import torch
from test_ddp import SHARED, assert_same_losses
from trainer_runs import assert_same_run, finish, read_curve, start, train_here, write_recipe

from training.guards import TrainingError
from training.mixing import NORMALISATIONS, flat_gradient, min_norm_weights, task_weights
from training.train import main

STEPS = {2: 1000, 3: 100, 4: 40, 5: 20, 6: 12}  # of the grid, by the number of tasks
PARETO = {**SHARED, "optim": {**SHARED["optim"], "mixing": "pareto"}}


def simplex(count: int, steps: int) -> np.ndarray:
    """All weights that are multiples of 1 / steps."""
    bars = np.array(list(combinations_with_replacement(range(steps + 1), count - 1)))
    edges = np.hstack([np.zeros((len(bars), 1)), bars, np.full((len(bars), 1), steps)])
    return np.diff(edges, axis=1) / steps


@pytest.mark.parametrize("count", STEPS)
def test_no_combination_on_a_grid_is_shorter_and_none_of_the_tasks_rises(count: int) -> None:
    rng = np.random.default_rng(count)
    grid = simplex(count, STEPS[count])
    for size in (1, 2, count, 50):  # fewer dimensions than tasks, so that the gradients depend on each other, and more
        for _ in range(5):
            gradients = rng.normal(size=(count, size)) * 10 ** rng.uniform(-2, 2, (count, 1)) + rng.normal(size=size)
            weights = min_norm_weights(gradients @ gradients.T)
            direction, longest = weights @ gradients, (gradients**2).sum(axis=1).max()
            assert weights.min() >= 0
            assert weights.sum() == pytest.approx(1, abs=1e-9)
            assert direction @ direction <= ((grid @ gradients) ** 2).sum(axis=1).min() + 1e-8 * longest
            assert (gradients @ direction >= direction @ direction - 1e-8 * longest).all()


@pytest.mark.parametrize(
    ("gradients", "expected"),
    [
        ([[1.0, 0], [0, 1]], [0.5, 0.5]),
        ([[3.0, 0], [0, 1]], [0.1, 0.9]),
        ([[1.0, 0], [5, 1]], [1.0, 0.0]),  # the first lies in the other's way no more: no clamp at 0.999
        ([[2.0, 1], [2, 1]], [0.5, 0.5]),
        ([[1.0, 2], [-1, -2]], [0.5, 0.5]),
        ([[1.0, 2], [-2, -4]], [2 / 3, 1 / 3]),
        ([[0.0, 0], [0, 0]], [0.5, 0.5]),
        ([[0.0, 0], [1, 0]], [1.0, 0.0]),
    ],
)
def test_two_gradients_by_hand(gradients: list[list[float]], expected: list[float]) -> None:
    g = np.array(gradients)
    assert min_norm_weights(g @ g.T) == pytest.approx(expected, abs=1e-9)


def test_products_in_32_bits_of_hardly_different_gradients_do() -> None:
    """More gradients than dimensions, nearly equal or of very different lengths: the products are not quite semidefinite."""
    rng = np.random.default_rng(0)
    for case in range(40):
        gradients = rng.normal(size=(6, 3)) * 10 ** rng.uniform(-2, 2, (6, 1))
        gradients = (gradients if case % 2 else 1 + 1e-3 * gradients).astype(np.float32)
        weights = min_norm_weights((gradients @ gradients.T).astype(float))
        direction = weights @ gradients
        assert weights.min() >= 0
        lengths = np.linalg.norm(gradients, axis=1)
        assert (gradients @ direction >= direction @ direction - 1e-5 * lengths * (weights @ lengths)).all()


def test_more_terms_than_can_be_weighed_are_refused() -> None:
    with pytest.raises(TrainingError, match=r"pareto has 11 terms to weigh; expected at most 10"):
        min_norm_weights(np.eye(11))


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_all_losses_fall_with_every_normalisation_and_the_weights_are_as_many_as_the_tasks(normalisation: str) -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        gradients, losses = rng.normal(size=(4, 9)) * 10 ** rng.uniform(-3, 3, (4, 1)), rng.uniform(-2, 2, 4)
        weights = task_weights(gradients @ gradients.T, losses, normalisation)
        direction = weights @ gradients
        assert weights.sum() == pytest.approx(4)
        assert (gradients @ direction > -1e-6 * np.linalg.norm(gradients, axis=1) * np.linalg.norm(direction)).all()


def test_normalised_by_length_the_weights_do_not_depend_on_a_tasks_unit() -> None:
    """A loss in millimetres weighs a thousandth of one in metres; the direction is the same."""
    gradients = np.array([[1.0, 0.2, 0], [-0.3, 1, 0.5]])
    scaled = np.array([1000.0, 1])[:, None] * gradients
    one, other = (task_weights(g @ g.T, np.ones(2), "l2") @ g for g in (gradients, scaled))
    assert one / np.linalg.norm(one) == pytest.approx(other / np.linalg.norm(other), rel=1e-6)


def test_what_has_no_gradient_is_no_task_and_what_is_not_finite_is_left_to_the_step() -> None:
    gradients = np.array([[1.0, 0], [0, 0], [0, 1]])
    assert task_weights(gradients @ gradients.T, np.ones(3), "l2") == pytest.approx([1, 1, 1])
    gradients[0] *= 3
    assert task_weights(gradients @ gradients.T, np.ones(3), "none") == pytest.approx([0.2, 1, 1.8])
    assert task_weights(np.zeros((2, 2)), np.ones(2), "l2").tolist() == [1, 1]
    assert task_weights(np.full((2, 2), np.inf), np.ones(2), "l2").tolist() == [1, 1]


def test_two_quadratics_meet_at_their_pareto_front_without_either_getting_worse() -> None:
    """|A (x - a)|^2 and |B (x - b)|^2 with other axes: on the front a combination of their gradients is 0."""
    a, b = torch.tensor([1.0, 0.0]).double(), torch.tensor([-1.0, 2.0]).double()
    A, B = torch.diag(torch.tensor([1.0, 0.5])).double(), torch.tensor([[0.7, 0.3], [0.0, 0.4]]).double()
    for x0 in ([4.0, 3.0], [-3.0, -2.0], [0.0, 5.0]):
        x = torch.nn.Parameter(torch.tensor(x0).double())
        before = np.array([np.inf, np.inf])
        for _ in range(400):
            losses = [(A @ (x - a)).square().sum(), (B @ (x - b)).square().sum()]
            now = np.array([loss.item() for loss in losses])
            assert (now <= before + 1e-9).all()
            before = now
            gradients = torch.stack([flat_gradient(loss, [x]) for loss in losses])
            weights = torch.from_numpy(min_norm_weights((gradients @ gradients.T).numpy()))
            with torch.no_grad():
                x -= 0.2 * weights @ gradients
        assert (weights @ gradients).norm() < 1e-3
        assert before.min() > 1e-3  # neither has just won


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, street_video: Path) -> Path:
    return train_here(write_recipe(tmp_path_factory.mktemp("alone"), street_video, **PARETO))


def test_weights_of_a_run_are_logged_and_its_loss_stays_the_sum(alone: Path) -> None:
    rows = read_curve(alone)
    for row in rows:
        terms = {k: float(v) for k, v in row.items() if k.startswith("train/") and k != "train/loss"}
        weights = {k: float(v) for k, v in row.items() if k.startswith("mixing/")}
        assert terms.keys() == {"train/photometric", "train/smoothness"}
        assert weights.keys() == {"mixing/photometric", "mixing/smoothness"}
        assert float(row["train/loss"]) == pytest.approx(sum(terms.values()))
        assert sum(weights.values()) == pytest.approx(2)
    assert any(abs(float(row["mixing/photometric"]) - 1) > 1e-3 for row in rows)


def test_two_processes_have_the_weights_of_one(alone: Path, tmp_path: Path, street_video: Path) -> None:
    code, _, err = finish(start(write_recipe(tmp_path, street_video, **PARETO), "run.devices=2"))
    assert code == 0, err
    assert_same_losses(tmp_path / "run", alone)


def test_a_run_that_goes_on_ends_as_an_uninterrupted_one(tmp_path: Path, street_video: Path) -> None:
    sections = PARETO | {"optim": PARETO["optim"] | {"schedule": "step"}}
    whole, parts = (write_recipe(tmp_path / name, street_video, **sections) for name in ("whole", "parts"))
    train_here(parts, "run.max_steps=2")
    assert_same_run(train_here(parts), train_here(whole))
    with (tmp_path / "parts" / "run" / "curve.csv").open() as file:
        assert sum(1 for _ in csv.DictReader(file)) == 4


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "optim.pareto_parameters=nowhere",
            "optim.pareto_parameters is 'nowhere', which no weight's name has in it; names: depth_net",
        ),
        ("optim.pareto_parameters='('", "optim.pareto_parameters is (; expected a regular expression"),
        ("optim.mixing=average", "optim.mixing is average; expected sum or pareto"),
    ],
)
def test_errors_name_the_key(
    tmp_path: Path, street_video: Path, capsys: pytest.CaptureFixture[str], override: str, message: str
) -> None:
    assert main([str(write_recipe(tmp_path, street_video, **PARETO)), "--set", override]) == 1
    assert message in capsys.readouterr().err

"""What covered squares do to depth and sigma, on candidates whose answers are known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from benchmarks import holes
from depth_ros.types import CameraModel, Frame, InputError
from training.data.truth import EvaluationItem
from training.judging.protocols import Prediction, Protocol

HEIGHT, WIDTH = 64, 192


@dataclass(frozen=True)
class Seer:
    """Off by 1 m where it sees texture and by 4 m where it sees none; sigma is 1 m, or as much as it is off where it `knows`."""

    knows: bool
    kind: str = "metric"

    def predict(self, item: EvaluationItem, protocol: Protocol) -> Prediction:
        image = item.frame.image.astype(float).sum(axis=2)
        blind = (np.diff(image, prepend=image[:, :1] + 1, axis=1) == 0) & (np.diff(image, append=image[:, -1:] + 1, axis=1) == 0)
        off = np.where(blind, 4, 1).astype(np.float32)
        return Prediction(item.truth + off, off if self.knows else np.ones_like(off))


@dataclass(frozen=True)
class Noise:
    """Images of noise, all of whose pixels are equally far away."""

    depth: float = 10.0  # [m]
    name: str = "noise"

    def __len__(self) -> int:
        return 3

    def __iter__(self):
        camera = CameraModel(WIDTH, HEIGHT, 100.0, 100.0, 95.5, 31.5)
        for index in range(3):
            image = np.random.default_rng(index).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            yield EvaluationItem(str(index), Frame(image, camera, 0, ""), np.full((HEIGHT, WIDTH), self.depth, np.float32))


def test_squares_lie_within_the_image_and_stay_where_they_are() -> None:
    squares = [holes.square_of(index, (HEIGHT, WIDTH)) for index in range(40)]
    assert {int(square.sum()) for square in squares} == {24 * 24}
    assert len({square.tobytes() for square in squares}) > 35
    np.testing.assert_array_equal(squares[7], holes.square_of(7, (HEIGHT, WIDTH)))


@pytest.mark.parametrize(("knows", "ratio", "within", "told"), [(True, 40 / 14 * 11 / 10, 1, 1), (False, 11 / 14, 0, 0)])
def test_a_sigma_that_knows_what_is_hidden_is_told_from_one_that_does_not(knows, ratio, within, told) -> None:
    found = holes.score(Seer(knows), Noise())
    assert found["abs_rel_shown"] == pytest.approx(0.1, abs=0.002)  # two pixels of noise in a row may be alike
    assert found["abs_rel_hidden"] == pytest.approx(0.4, abs=0.03)  # but for the square's own borders
    assert found["sigma_ratio"] == pytest.approx(ratio)
    assert found["coverage_1sigma_hidden"] == pytest.approx(within, abs=0.1)
    assert found["told"] == pytest.approx(told, abs=0.1)


def test_images_without_truth_are_refused() -> None:
    with pytest.raises(InputError, match="noise: no covered pixel has truth and a finite depth"):
        holes.score(Seer(knows=True), Noise(depth=0.0))


def test_share_above_counts_pairs() -> None:
    values, others = np.float32([1, 2, 2, 5]), np.float32([0, 2, 3])
    pairs = [(v > o) + 0.5 * (v == o) for v in values for o in others]
    assert holes.share_above(values, others) == pytest.approx(np.mean(pairs))

"""Ordinal depth: DIW's annotations, the disagreement rate of a known depth, and the command line with a shipped model."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from depth_ros.types import Frame, InputError
from training.judge_order import main
from training.judging.ordinal import Comparison, find_images, format_order, judge_order, read_comparisons

ROOT = Path(__file__).resolve().parents[2]
# On a depth of 1 to 6 from left to right, with a hole: right, wrong, right, wrong, equal, into the hole.
PAIRS = ["1,6,1,1,>,6,4", "1,6,1,1,<,6,4", "4,2,2,3,<,6,4", "3,2,1,5,>,6,4", "1,3,4,3,>,6,4", "2,6,1,1,>,6,4"]


@pytest.fixture
def wild(tmp_path: Path) -> Path:
    """An image of 6x4 and its comparisons, one of an image that is not there."""
    (tmp_path / "DIW_test").mkdir()
    cv2.imwrite(str(tmp_path / "DIW_test" / "a.png"), np.full((4, 6, 3), 90, np.uint8))
    lines = [f"./DIW_test/a.png\n{pair}" for pair in PAIRS] + ["./DIW_test/gone.png\n1,1,2,2,>,6,4"]
    (tmp_path / "test.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def known_depth(frame: Frame) -> np.ndarray:
    depth = np.tile(np.arange(1.0, 7.0, dtype=np.float32), (4, 1))
    depth[1, 5] = np.nan
    return depth


def test_pixels_count_from_one_rows_first_and_greater_is_farther(wild: Path) -> None:
    comparisons = read_comparisons(wild / "test.csv")
    assert len(comparisons) == 7
    assert comparisons[2] == Comparison("./DIW_test/a.png", far=(1, 2), near=(3, 1))
    assert comparisons[3] == Comparison("./DIW_test/a.png", far=(2, 1), near=(0, 4))


def test_a_known_depth_disagrees_as_often_as_counted_by_hand(wild: Path) -> None:
    present, skipped = find_images(read_comparisons(wild / "test.csv"), wild)
    rows = judge_order(present, known_depth)
    assert skipped == 1
    assert (rows["model"].wrong, rows["model"].pairs) == (4, 6)
    assert rows["lower is nearer"].wrong == 4  # right for the third and fifth: the others are level, or the upper is nearer
    text = format_order(rows, skipped)
    assert "66.67%  (4 of 6)" in text
    assert "chance           WHDR  50.00%" in text
    assert "1 pairs skipped: no image" in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds 0 lines; expected a line with an image"),
        ("a.png\n", "holds 1 lines"),
        ("a.png\n1,1,2,2,=,6,4\n", r"found '1,1,2,2,=,6,4'; expected .* > or <"),
        ("a.png\n1,1,2,>,6,4\n", "found '1,1,2,>,6,4'"),
        ("a.png\n0,1,2,2,>,6,4\n", "expected pixels within 6x4, counted from 1"),
        ("a.png\n5,1,2,2,>,6,4\n", "expected pixels within 6x4"),
    ],
)
def test_bad_annotations_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(InputError, match=message) as error:
        read_comparisons(tmp_path / "bad.csv")
    assert str(error.value).startswith(str(tmp_path / "bad.csv"))


def test_images_are_asked_for_and_must_have_their_size(wild: Path) -> None:
    with pytest.raises(InputError, match=r"gone.png: no such file, nor any other of 1; expected the images"):
        find_images(read_comparisons(wild / "test.csv")[-1:], wild)
    cv2.imwrite(str(wild / "DIW_test" / "a.png"), np.zeros((2, 3, 3), np.uint8))
    with pytest.raises(InputError, match=r"a.png: is 3x2; expected the size that was annotated"):
        judge_order(find_images(read_comparisons(wild / "test.csv"), wild)[0], known_depth)


def test_the_command_judges_a_bundle(wild: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(ROOT / "models" / "default"), str(wild / "test.csv"), str(wild)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("6 pairs of points")
    assert [line.split(" WHDR")[0].strip() for line in lines[1:4]] == ["model", "lower is nearer", "chance"]
    assert main([str(wild / "none"), str(wild / "test.csv"), str(wild)]) == 1
    assert capsys.readouterr().err.startswith("error: ")

"""The report as a reader opens it: one file that needs nothing else, with what the JSON says."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from depth_ros.bundle import ModelBundle
from depth_ros.types import CameraModel
from training.data.truth import EvaluationSet, open_evaluation_set
from training.evaluate import main
from training.judging.figures import depth_bins_figure, depth_picture, error_picture, scale_picture
from training.judging.foreign import PredictionFolder
from training.judging.judge import Judgement, judge_baselines, judge_set
from training.judging.protocols import PROTOCOLS, Prediction
from training.judging.report import file_name, write_json, write_report

CAMERA = CameraModel(64, 32, 50.0, 50.0, 31.5, 15.5)
RAW = PROTOCOLS["kitti2015"]
VOID = {"meta", "img", "path", "use", "br"}


class Page(HTMLParser):
    """What a browser would load, show and find unclosed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.cells: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.loads += [value or "" for name, value in attributes if name in ("src", "href", "xlink:href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.loads += [value or "" for name, value in attributes if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.cells.append(data)


@pytest.fixture
def folder(tmp_path: Path, write_set: Callable[..., Path]) -> Path:
    """Six images with a step in depth that the probe bundle reads 10 % too far, with a sigma of 1 m."""
    truths = np.full((6, 32, 64), 5.0)
    truths[:, :, 32:] = 12.0
    truths[:, :14] = 0.0
    images = np.zeros((6, 32, 64, 3), np.uint8)
    images[..., 0], images[..., 1] = np.round(11 * np.maximum(truths, 1)), 100
    return write_set(tmp_path / "street <1>", CAMERA, images, truths)


@pytest.fixture
def dataset(folder: Path) -> EvaluationSet:
    return open_evaluation_set(folder)


def test_one_page_with_everything_inside(
    tmp_path: Path, folder: Path, make_bundle: Callable[..., ModelBundle], capsys: pytest.CaptureFixture[str]
) -> None:
    model, report = str(make_bundle().path), tmp_path / "out" / "report"
    assert main([model, str(folder), "--report", str(report)]) == 0
    assert sorted(file.name for file in report.iterdir()) == ["report.json", "street__1_.html"]
    text = (report / "street__1_.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert all(load.startswith(("data:image/png;base64,", "#")) for load in page.loads)
    assert "<script" not in text
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"|<!DOCTYPE[^>]*>|<metadata>.*?</metadata>', "", text, flags=re.S)
    assert RAW.describe() in text
    assert "raw metres" in text
    rows = json.loads((report / "report.json").read_text())["results"]["street <1>"]
    assert list(rows) == ["constant", "mean map", "mean map, pooled", model]
    for name, scores in rows.items():
        at = page.cells.index(name)
        assert page.cells[at : at + 4] == [name, "none", "6", f"{scores['abs_rel']:.3f}"]
    assert rows[model]["abs_rel"] == pytest.approx(0.1, abs=1e-6)
    assert text.count("<svg") == 3
    pictures = [base64.b64decode(load.partition(",")[2]) for load in page.loads if load.startswith("data:")]
    sizes = [cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR).shape for picture in pictures]
    assert sizes == [(280, 560, 3)] * 4 * 5  # four images: image, truth, depth, error, sigma


def test_the_json_holds_the_curves_and_no_number_that_json_does_not_know(tmp_path: Path, dataset: EvaluationSet) -> None:
    rows = judge_baselines(dataset, RAW)
    constant = rows["constant"]
    rows["odd"] = Judgement(constant.scaling, {"images": 6, "nll": float("inf")}, {}, constant.curves, None, constant.groups)
    write_json(tmp_path / "new" / "scores.json", {"street": rows}, RAW)
    found = json.loads((tmp_path / "new" / "scores.json").read_text())
    assert found["protocol"] == RAW.describe()
    assert found["results"]["street"]["odd"] == {"images": 6, "nll": None}
    details = found["details"]["street"]["constant"]
    assert [len(curve) for curve in details["sparsification"]["rmse"].values()] == [51] * 5
    assert details["sparsification"]["abs_rel"]["sigma"][0] == pytest.approx(constant.scores["abs_rel"])
    assert len(details["reliability"]["nominal"]) == len(details["reliability"]["observed"]) == 19
    assert details["groups"]["5-10 m"]["pixels"] > 0
    assert found["details"]["street"]["odd"]["reliability"] is None


def test_an_image_without_prediction_is_said_on_its_sheet(tmp_path: Path, folder: Path, dataset: EvaluationSet) -> None:
    (folder / "depth" / "000005.png").unlink()
    (tmp_path / "theirs").mkdir()
    np.save(tmp_path / "theirs" / "000000.npy", np.full((32, 64), 7.0))
    theirs = PredictionFolder(tmp_path / "theirs")
    rows = judge_baselines(dataset, RAW) | {"theirs": judge_set(theirs, dataset, RAW)}
    text = write_report(tmp_path, dataset, rows, {"theirs": theirs}, RAW).read_text()
    assert re.findall(r"<h3>(.*?)</h3>", text) == ["000000.png", "000001.png", "000003.png", "000004.png"]
    assert text.count("theirs: no prediction in ") == 3
    assert "4 of 6 images not judged: no prediction in" in text
    assert "1 of 6 images not judged: no truth file" in text
    assert text.count("<svg") == 2  # no reliability: only the baselines have a sigma


def test_a_figure_can_be_repeated(dataset: EvaluationSet) -> None:
    rows = judge_baselines(dataset, RAW)
    assert depth_bins_figure(rows) == depth_bins_figure(rows)


def test_near_is_bright_and_nothing_is_grey() -> None:
    depth = np.array([[2, 5, 20, 80, np.inf, np.nan]], np.float32)
    picture = depth_picture(depth, 80.0)
    brightness = picture.astype(int).sum(axis=2)[0]
    assert (np.diff(brightness[:4]) < 0).all()
    assert (picture[0, 4] == picture[0, 3]).all()
    assert picture[0, 5].tolist() == [200, 200, 200]


def test_errors_are_drawn_where_there_is_truth() -> None:
    truth = np.array([[10, 10, 10, 0]], np.float32)
    picture = error_picture(Prediction(np.array([[10, 15, 40, 5]], np.float32)), truth, RAW)
    none, all_ = (scale_picture(np.array([[v]], np.float32))[0, 0].tolist() for v in (0.0, 1.0))
    assert picture[0].tolist() == [none, all_, all_, [200, 200, 200]]


def test_names_of_sets_become_names_of_files() -> None:
    assert file_name("kitti2015_stereo[1::2]") == "kitti2015_stereo_1__2_"

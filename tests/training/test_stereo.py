"""Stereo sets: disparity files read by hand, depth by the pair's own calibration, and pairs whose cameras differ in cx."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from depth_ros.types import InputError
from training.config import DataConfig
from training.data.clips import Clips
from training.data.recording import Target
from training.data.sources import open_source
from training.data.stereo import read_disparity, read_pfm
from training.data.truth import open_evaluation_set

WIDTH, HEIGHT, FX, CX, BASELINE_M, DOFFS = 96, 64, 80.0, 40.0, 0.2, 12.0
DEPTH_M = 2.0
DISPARITY = FX * BASELINE_M / DEPTH_M - DOFFS  # -4 px: behind infinity but for doffs


def write_pfm(file: Path, values: np.ndarray, scale: float = -1.0) -> None:
    """By the format's definition, one number at a time: rows from the bottom up, the sign of the scale is the byte order."""
    height, width = values.shape
    order = "<" if scale < 0 else ">"
    pixels = b"".join(
        struct.pack(f"{order}f", values[row, column]) for row in range(height - 1, -1, -1) for column in range(width)
    )
    file.write_bytes(f"Pf\n{width} {height}\n{scale}\n".encode() + pixels)


def noise(width: int, seed: int = 0) -> np.ndarray:
    """Smooth texture (HEIGHT, width, 3)."""
    picture = np.random.default_rng(seed).uniform(0, 255, (HEIGHT, width, 3)).astype(np.float32)
    return cv2.GaussianBlur(picture, (0, 0), 1.5).clip(0, 255).astype(np.uint8)


def write_scene(folder: Path, *, disparity: bool = True) -> Path:
    """A wall at DEPTH_M in Middlebury's layout of 2014; the right camera's cx is DOFFS larger than the left one's."""
    folder.mkdir(parents=True)
    wall = noise(WIDTH + 40)
    # Point x of the wall is at u in the left image and at u - DISPARITY in the right one.
    cv2.imwrite(str(folder / "im0.png"), wall[:, 20 : 20 + WIDTH])
    start = 20 + int(DISPARITY)
    cv2.imwrite(str(folder / "im1.png"), wall[:, start : start + WIDTH])
    (folder / "calib.txt").write_text(
        f"cam0=[{FX} 0 {CX}; 0 {FX} 30; 0 0 1]\ncam1=[{FX} 0 {CX + DOFFS}; 0 {FX} 30; 0 0 1]\n"
        f"doffs={DOFFS}\nbaseline={1000 * BASELINE_M}\nwidth={WIDTH}\nheight={HEIGHT}\nndisp=20\nisint=0\n"
    )
    if disparity:
        values = np.full((HEIGHT, WIDTH), DISPARITY, np.float32)
        values[0, 0], values[5, 7] = np.inf, np.nan
        write_pfm(folder / "disp0.pfm", values, scale=-0.003922)
    return folder


def open_all(root: Path, **keys: object) -> list[Target]:
    return open_source(DataConfig(root=str(root), source="stereo", **keys), "test")


@pytest.mark.parametrize("scale", [-1.0, 1.0, -0.003922, 2.0])
def test_a_pfm_holds_what_was_written(tmp_path: Path, scale: float) -> None:
    values = np.array([[1.5, -2.0, np.inf], [4.0, 5.0, 6.25]], np.float32)
    write_pfm(tmp_path / "a.pfm", values, scale)
    assert np.array_equal(read_pfm(tmp_path / "a.pfm"), values)


def test_a_pfm_written_by_opencv_is_read_alike(tmp_path: Path) -> None:
    values = np.random.default_rng(0).uniform(0, 9, (5, 7)).astype(np.float32)
    cv2.imwrite(str(tmp_path / "a.pfm"), values)
    assert np.array_equal(read_pfm(tmp_path / "a.pfm"), values)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PF\n2 1\n-1\n" + bytes(24), r"a.pfm: begins with b'PF.*expected the header of a single-channel PFM"),
        (b"Pf\n2 2\n-1\n" + bytes(12), r"a.pfm: holds 12 bytes of pixels; expected 16 for 2x2"),
        (None, r"a.pfm: No such file or directory; expected a PFM file"),
    ],
)
def test_a_bad_pfm_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "a.pfm").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_pfm(tmp_path / "a.pfm")


def test_a_png_counts_pixels_or_256ths_of_them(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.array([[0, 512]], np.uint16))
    cv2.imwrite(str(tmp_path / "b.png"), np.array([[0, 21]], np.uint8))
    cv2.imwrite(str(tmp_path / "c.png"), np.zeros((2, 2, 3), np.uint8))
    assert read_disparity(tmp_path / "a.png").tolist() == [[np.inf, 2.0]]
    assert read_disparity(tmp_path / "b.png").tolist() == [[np.inf, 21.0]]
    assert read_disparity(tmp_path / "b.png", unit=3).tolist() == [[np.inf, 7.0]]
    with pytest.raises(InputError, match=r"c.png: \(2, 2, 3\) uint8; expected a single-channel disparity PNG"):
        read_disparity(tmp_path / "c.png")


def test_depth_follows_from_the_calibration_with_doffs(tmp_path: Path) -> None:
    (target,) = open_all(write_scene(tmp_path / "Wall").parent)
    depth = target.recording.depth(0)
    expected = np.full((HEIGHT, WIDTH), DEPTH_M)
    expected[0, 0] = expected[5, 7] = 0
    assert depth == pytest.approx(expected, rel=1e-6)
    assert target.recording.image_name(0) == "Wall/im0.png"
    assert target.recording.camera(0).cx == CX


def test_the_right_image_is_that_of_a_camera_like_the_left_one(tmp_path: Path) -> None:
    """Seen through one K, the wall moves by fx baseline / depth = 8 px, doffs gone."""
    (target,) = open_all(write_scene(tmp_path / "Wall").parent)
    left, _ = target.recording.image(0)
    right, _ = target.recording.image(0, right=True)
    inner = slice(20, 60)
    errors = {
        shift: np.abs(left[:, inner].astype(int) - right[:, inner.start - shift : inner.stop - shift]).mean()
        for shift in range(-14, 15)
    }
    assert min(errors, key=errors.__getitem__) == FX * BASELINE_M / DEPTH_M
    sample = Clips([target], (WIDTH, HEIGHT), offsets=((),), stereo=True, depth=True)[0]
    assert sample.views[0].source_T_target[0, 3] == -BASELINE_M


def test_scenes_without_truth_stay_and_are_not_judged(tmp_path: Path) -> None:
    write_scene(tmp_path / "set" / "a")
    write_scene(tmp_path / "set" / "b", disparity=False)
    dataset = open_evaluation_set(tmp_path / "set", source="stereo")
    assert (len(dataset), [item.name for item in dataset]) == (2, ["a/im0.png"])


def test_a_scene_without_its_right_image_is_reported(tmp_path: Path) -> None:
    write_scene(tmp_path / "a")
    (write_scene(tmp_path / "b") / "im1.png").unlink()
    with pytest.warns(UserWarning, match=r"1 of 2 left images have no right one and are left out; the first is .*b/im0.png"):
        assert len(open_all(tmp_path)) == 1


def test_scenes_are_split_by_number_or_by_name(tmp_path: Path) -> None:
    for name in "abcd":
        write_scene(tmp_path / name, disparity=False)
    config = {"root": str(tmp_path), "source": "stereo", "train_frames": (0, 3), "val_frames": (3, 4)}

    def names(part: str, **keys: str) -> list[str]:
        return [t.recording.image_name(0)[0] for t in open_source(DataConfig(**config, **keys), part)]

    assert (names("train"), names("val"), names("test")) == (["a", "b", "c"], ["d"], ["a", "b", "c", "d"])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "val_files.txt").write_text("# held out\nc\na\n")
    assert names("val", split="mine") == ["c", "a"]
    with pytest.raises(InputError, match=r"data.split is 'mine', but there is neither .*mine/train_files.txt nor"):
        names("train", split="mine")
    (tmp_path / "mine" / "train_files.txt").write_text("a\ne\n")
    with pytest.raises(InputError, match=r"train_files.txt: names 'e' \(1 unknown of 2\); expected names such as a, b, c"):
        names("train", split="mine")
    with pytest.raises(InputError, match=r"data.train_frames is \[0, 9\], and the recording holds 4"):
        open_source(DataConfig(**(config | {"train_frames": (0, 9)})), "train")


def test_middlebury_2006_counts_full_size_pixels_at_a_third(tmp_path: Path) -> None:
    """370 rows are a third of 1110: 3740 px and 160 mm at full size give 3740 x 0.16 / (value + dmin) metres."""
    for name in ("view1.png", "view5.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((370, 30, 3), np.uint8))
    disparity = np.full((370, 30), 150, np.uint8)
    disparity[1, 1] = 0
    cv2.imwrite(str(tmp_path / "disp1.png"), disparity)
    (tmp_path / "dmin.txt").write_text("230\n")
    (target,) = open_all(tmp_path)
    depth = target.recording.depth(0)
    assert depth[0, 0] == pytest.approx(3740 * 0.16 / 380, rel=1e-5)
    assert depth[1, 1] == 0
    assert target.recording.camera(0).fx == pytest.approx(3740 / 3)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("calib.txt", "cam0=[1 0 0]\n", r"calib.txt: .*expected cam0=\[fx 0 cx; .*baseline=<mm>"),
        (
            "calib.txt",
            "cam0=[9 0 4; 0 9 4; 0 0 1]\ndoffs=0\nbaseline=-3\nwidth=9\nheight=9\n",
            r"calib.txt: baseline is -0.003 m",
        ),
        ("meta.json", "{", r"meta.json: .*expected a JSON with K \(3x3\), width, height and baseline_m"),
        ("dmin.txt", "many", r"dmin.txt: found \['many'\]; expected one number"),
        ("other.txt", "", r"has no calibration.*expected calib.txt, dmin.txt, or meta.json.*or data.truth: relative"),
    ],
)
def test_a_bad_calibration_is_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    for image in ("view1.png", "view5.png"):
        cv2.imwrite(str(tmp_path / image), np.zeros((9, 9, 3), np.uint8))
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        open_all(tmp_path)


def test_a_folder_without_pairs_and_an_unknown_truth_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no stereo pair; expected folders with .*im0.png"):
        open_all(tmp_path)
    with pytest.raises(InputError, match=r"data.truth is 'disp'; expected none, or relative"):
        open_all(tmp_path, truth="disp")


def test_a_folder_of_pairs_shares_one_calibration(tmp_path: Path) -> None:
    for name in ("left", "right", "disp"):
        (tmp_path / name).mkdir()
    for number, name in enumerate("ab"):
        for side in ("left", "right"):
            cv2.imwrite(str(tmp_path / side / f"{name}.png"), noise(WIDTH, number))
    write_pfm(tmp_path / "disp" / "a.pfm", np.full((HEIGHT, WIDTH), 4.0, np.float32))
    cv2.imwrite(str(tmp_path / "disp" / "b.png"), np.full((HEIGHT, WIDTH), 8 * 256, np.uint16))
    meta = {"K": [[FX, 0, CX], [0, FX, 30], [0, 0, 1]], "width": WIDTH, "height": HEIGHT, "baseline_m": BASELINE_M}
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    a, b = open_all(tmp_path)
    assert (a.recording.depth(0)[3, 3], b.recording.depth(0)[3, 3]) == (pytest.approx(4.0), pytest.approx(2.0))
    (tmp_path / "right" / "b.png").unlink()
    with pytest.raises(InputError, match=r"right/b.png: no such file; expected the partner of .*left/b.png"):
        open_all(tmp_path)


def test_real_pairs(shared_data: Path) -> None:
    """Adirondack has its calibration; cones and aloe only a disparity, which says nothing of metres."""
    root = shared_data / "middlebury"
    with pytest.raises(InputError, match=r"aloe_full: has no calibration"):
        open_all(root)
    (adirondack,) = open_all(root / "adirondack_q")
    depth = adirondack.recording.depth(0)
    stored = cv2.imread(str(root / "adirondack_q" / "disp.png"), cv2.IMREAD_UNCHANGED)
    row, column = 250, 360
    assert stored[row, column] > 0
    assert depth[row, column] == pytest.approx(1040.30525 * 0.176252 / (stored[row, column] / 256 + 52.26475), rel=1e-5)
    assert np.array_equal(depth > 0, stored > 0)
    # The chair and the wall behind it are a few metres away; the right image, warped by the true depth, shows the left one.
    left, right = adirondack.recording.image(0)[0], adirondack.recording.image(0, right=True)[0]
    shift = 1040.30525 * 0.176252 / np.where(depth > 0, depth, np.inf)
    rows, columns = np.indices(depth.shape, dtype=np.float32)
    errors = {}
    for factor in (0.9, 1.0, 1.1):
        seen = cv2.remap(right, (columns - factor * shift).astype(np.float32), rows, cv2.INTER_LINEAR)
        errors[factor] = np.median(np.abs(seen.astype(int) - left)[depth > 0])
    assert errors[1.0] < min(errors[0.9], errors[1.1])
    relative = open_all(root, truth="relative")
    assert len(relative) == 3
    assert all((t.recording.depth(0) > 0).mean() > 0.5 for t in relative)

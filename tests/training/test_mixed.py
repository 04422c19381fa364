"""Mixed datasets: inverse depth of every kind, exact shares of every batch, and what cannot be mixed."""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

from depth_ros.types import InputError
from training.config import ConfigError, TrainConfig, load_config, merge, to_dict
from training.data.clips import shrink_inverse
from training.data.loading import Sources, build_sources, training_batches, validation_batches
from training.data.order import EqualShares
from training.data.recording import Recording
from training.data.street import Street, kitti_camera
from training.train import main, train

ROOT = Path(__file__).resolve().parents[2]
MakeConfig = Callable[..., TrainConfig]
BASELINE_M, DISP_SCALE, SFM_UNIT = 0.54, 256.0, 3.7
SIZE = (384, 128)  # of the recorded images; the network sees half of it
FRAMES = {"lidar": 7, "pairs": 3, "reconstructed": 5, "film": 6}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same street as four datasets: with depth, with disparity but no calibration, with depth of unknown scale, as a film."""
    folder, camera, street = tmp_path_factory.mktemp("mixed"), kitti_camera(*SIZE), Street(3)
    meta = {"K": camera.K.tolist(), "width": SIZE[0], "height": SIZE[1], "baseline_m": BASELINE_M}
    aside = np.eye(4)
    aside[0, 3] = BASELINE_M
    for name, count in FRAMES.items():
        for index in range(count):
            t_s = 2.0 + 0.4 * index
            left = street.render(camera, street.pose(t_s), t_s)
            right = street.render(camera, street.pose(t_s) @ aside, t_s)
            near = left.depth < 200
            disparity = np.where(near, camera.fx * BASELINE_M / left.depth, 0)
            pictures = {"image": left.image[..., ::-1]}
            if name == "lidar":
                pictures["depth"] = (np.where(near, left.depth, 0) * 256).astype(np.uint16)
            elif name == "reconstructed":
                pictures["depth"] = (np.where(near, left.depth, 0) * SFM_UNIT * 50).astype(np.uint16)
            else:
                pictures = {"left": left.image[..., ::-1], "right": right.image[..., ::-1]}
            if name == "pairs":
                pictures["disp"] = (disparity * DISP_SCALE).astype(np.uint16)
            for kind, picture in pictures.items():
                (folder / name / kind).mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(folder / name / kind / f"{index:03d}.png"), picture)
        if name != "pairs":
            scale = {"lidar": 256, "reconstructed": 50}.get(name)
            (folder / name / "meta.json").write_text(json.dumps(meta | {"depth_scale": scale}))
    return folder


def entries(**changes: dict[str, object]) -> list[dict[str, object]]:
    """The mix of all kinds; `changes` are of the entry with that name."""
    mix: list[dict[str, object]] = [
        {"name": "lidar", "kind": "depth", "source": "folder", "train_frames": [0, 5], "val_frames": [5, 7]},
        {"name": "pairs", "kind": "disparity", "source": "stereo", "truth": "relative",
         "train_frames": [0, 2], "val_frames": [2, 3]},
        {"name": "reconstructed", "kind": "sfm", "source": "folder", "train_frames": [0, 3], "val_frames": [3, 5]},
        {"name": "film", "kind": "movie", "source": "folder", "train_frames": [0, 4], "val_frames": [4, 6]},
    ]  # fmt: skip
    return [{"path": entry["name"], **entry, **changes.get(str(entry["name"]), {})} for entry in mix]


def data(root: Path, mix: list[dict[str, object]] | None = None, **changes: object) -> dict[str, object]:
    return {"root": str(root), "source": "mixed", "mix": entries() if mix is None else mix, **changes}


@pytest.fixture(scope="module")
def sources(root: Path) -> Sources:
    config = merge(TrainConfig(), {"data": data(root, width=192, height=64)}, "test")
    return build_sources(config.data, 0)


@pytest.mark.parametrize("number", range(4), ids=FRAMES)
def test_every_kind_is_the_scenes_inverse_depth_up_to_scale_and_shift(sources: Sources, number: int) -> None:
    """Against the nearest depth that was rendered in the four recorded pixels of each of the network's."""
    (mixture, _), *_ = sources.train
    for index, sample in enumerate(mixture.datasets[number][i] for i in range(2)):
        t_s, street = 2.0 + 0.4 * index, Street(3)
        depth = street.render(kitti_camera(*SIZE), street.pose(t_s), t_s).depth
        true = 1 / depth.reshape(64, 2, 192, 2).min(axis=(1, 3))
        known = np.isfinite(sample.inverse)
        assert known.mean() > 0.25
        assert not known[true < 1 / 200].any() or number == 3
        scale, shift = np.polyfit(sample.inverse[known], true[known], 1)
        assert scale > 0
        residual = np.abs(scale * sample.inverse + shift - true)[known]
        assert np.median(residual) < 0.01 * true.max()
        assert np.corrcoef(sample.inverse[known], true[known])[0, 1] > (0.95 if number == 3 else 0.999)
        assert sample.dataset == number
        assert sample.depth is None
        assert sample.views == ()


def documented(number: int) -> object:
    """A YAML of docs/mixed.md."""
    return yaml.safe_load(re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "mixed.md").read_text(), re.DOTALL)[number])


@pytest.fixture
def uncalibrated(root: Path, tmp_path: Path) -> list[dict[str, object]]:
    """The entry of a film in the docs, of pairs beside which there is nothing: no camera, no baseline, no depth."""
    (entry,) = documented(1)
    (tmp_path / entry["path"]).mkdir()
    for side in ("left", "right"):
        (tmp_path / entry["path"] / side).symlink_to(root / "film" / side)
    return [{**entry, "path": str(tmp_path / entry["path"]), "train_frames": [0, 4], "val_frames": [4, 6]}]


def test_a_film_of_an_unknown_camera_is_inverse_depth_too(uncalibrated: list, root: Path, make_config: MakeConfig) -> None:
    (mixture, _), *_ = build_sources(make_config(data=data(root, uncalibrated)).data, 0).train
    assert len(mixture) == 4
    depth = Street(3).render(kitti_camera(*SIZE), Street(3).pose(2.0), 2.0).depth
    true = 1 / depth.reshape(64, 2, 192, 2).min(axis=(1, 3))
    known = np.isfinite(mixture[0].inverse)
    assert known.mean() > 0.25
    assert np.corrcoef(mixture[0].inverse[known], true[known])[0, 1] > 0.95
    for wrong in ({"truth": ""}, {"source": "folder", "truth": ""}):
        with pytest.raises(InputError, match=r"data.mix: 'film': .*(has no calibration|meta.json)"):
            build_sources(make_config(data=data(root, [uncalibrated[0] | wrong])).data, 0)


def test_midas_weighs_the_datasets_of_a_mix(
    uncalibrated: list, root: Path, tmp_path: Path, make_config: MakeConfig, tiny_encoder: None
) -> None:
    """Pareto weights of lidar and of an uncalibrated film: one each, not negative, their sum the number of datasets."""
    config = make_config(
        data=data(root, [entries()[0], *uncalibrated]),
        method={"name": "midas"},
        network={"encoder": "tiny", "decoder": "midas_small"},
        optim={"mixing": "pareto", "batch_size": 4, "warmup_steps": 1},
        run={"dir": str(tmp_path / "run"), "max_steps": 3, "validate_every": 3, "log_every": 1, "accelerator": "cpu"},
    )
    train(config)
    with (tmp_path / "run" / "curve.csv").open(newline="") as lines:
        rows = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(lines)]
    assert len(rows) == 3
    for row in rows:
        weights = {key: value for key, value in row.items() if key.startswith("mixing/")}
        assert set(weights) == {"mixing/lidar", "mixing/film"}
        assert min(weights.values()) >= 0
        assert sum(weights.values()) == pytest.approx(2)
        assert row["train/loss"] == pytest.approx(row["train/lidar"] + row["train/film"])
        assert min(row["train/lidar"], row["train/film"]) > 0
    assert any(abs(row["mixing/lidar"] - 1) > 1e-3 for row in rows)


def test_infinitely_far_is_known_and_nothing_measured_is_not(root: Path) -> None:
    config = merge(TrainConfig(), {"data": data(root)}, "test")
    recording = build_sources(config.data, 0).train[0][0].datasets[0].targets[0].recording
    depth = np.array([[np.inf, 0.0, np.nan, 4.0]], np.float32)
    recording.depth = lambda index, right=False: depth
    inverse = Recording.inverse(recording, 0)
    assert np.array_equal(inverse, [[0.0, np.nan, np.nan, 0.25]], equal_nan=True)


def test_the_nearest_wins_where_inverse_depth_shrinks() -> None:
    camera = kitti_camera(4, 2)
    inverse = np.array([[0.1, np.nan, np.nan, np.nan], [0.0, 0.3, np.nan, np.nan]], np.float32)
    small = shrink_inverse(inverse, camera.K, camera.resized(2, 1).K, 2, 1)
    assert np.array_equal(small, np.array([[0.3, np.nan]], np.float32), equal_nan=True)


def test_every_batch_has_equal_shares_and_small_datasets_come_round(root: Path, make_config: MakeConfig) -> None:
    config = make_config(data=data(root), optim={"batch_size": 12})
    built = build_sources(config.data, 0)
    for batch in itertools.islice(training_batches(built, config, 0), 4):
        assert torch.bincount(batch.dataset).tolist() == [3, 3, 3, 3]
        assert batch.inverse.shape == batch.valid.shape == (12, 1, 64, 192)
        assert batch.depth is None
        assert torch.isfinite(batch.inverse).all()
        assert not batch.inverse[~batch.valid].any()


def test_each_dataset_is_shuffled_by_itself_and_shown_evenly() -> None:
    sizes, each = (7, 2, 30), 4
    batches = list(itertools.islice(EqualShares(sizes, 12, seed=3), 21))
    firsts = (0, 7, 9, 39)
    for dataset, size in enumerate(sizes):
        items = [n - firsts[dataset] for batch in batches for n in batch if firsts[dataset] <= n < firsts[dataset + 1]]
        assert len(items) == 21 * each
        whole = len(items) // size * size
        assert set(Counter(items[:whole]).values()) == {whole // size}
        assert items[:size] != items[size : 2 * size] or size == 2
    assert batches != list(itertools.islice(EqualShares(sizes, 12, seed=4), 21))


@pytest.mark.parametrize("start", [1, 5, 20])
def test_a_resumed_run_goes_on_with_the_same_batches(start: int) -> None:
    whole = list(itertools.islice(EqualShares((7, 2, 30), 12, seed=3), 24))
    assert list(itertools.islice(EqualShares((7, 2, 30), 12, seed=3, start=start), 24 - start)) == whole[start:]


@pytest.mark.parametrize("mixing", ["equal", "proportional"])
def test_processes_share_each_batch_and_a_batch_depends_on_its_number(
    root: Path, make_config: MakeConfig, sources: Sources, mixing: str
) -> None:
    config = make_config(data=data(root, mixing=mixing), optim={"batch_size": 8})
    whole = list(itertools.islice(training_batches(sources, config, 0), 4))
    halves = [list(itertools.islice(training_batches(sources, config, 1, rank, 2), 3)) for rank in range(2)]
    for batch, first, second in zip(whole[1:], *halves, strict=True):
        assert torch.equal(batch.image, torch.cat([first.image, second.image]))
        assert torch.equal(batch.inverse, torch.cat([first.inverse, second.inverse]))
        assert torch.equal(batch.dataset, torch.cat([first.dataset, second.dataset]))
        if mixing == "equal":
            assert torch.bincount(first.dataset).tolist() == torch.bincount(second.dataset).tolist() == [1, 1, 1, 1]


def test_proportional_batches_show_every_image_once_an_epoch(root: Path, make_config: MakeConfig, sources: Sources) -> None:
    config = make_config(data=data(root, mixing="proportional"), optim={"batch_size": 7})
    shown = torch.cat([batch.dataset for batch in itertools.islice(training_batches(sources, config, 0), 2)])
    assert torch.bincount(shown).tolist() == [5, 2, 3, 4]


def test_validation_goes_through_one_dataset_after_the_other(sources: Sources) -> None:
    batches = list(validation_batches(sources, 2))
    assert [batch.dataset.tolist() for batch in batches] == [[0, 0], [1], [2, 2], [3, 3]]


def test_an_image_never_trains_and_validates_not_even_in_another_dataset(root: Path) -> None:
    again = {**entries()[0], "name": "again", "train_frames": [0, 6], "val_frames": [6, 7]}
    config = merge(TrainConfig(), {"data": data(root, [entries()[0], again])}, "test")
    with pytest.raises(ConfigError, match=r"1 validation images of 'lidar' train in 'again', the first is .*005.png; expected"):
        build_sources(config.data, 0)


def test_streets_are_a_dataset_like_any_other(root: Path, make_config: MakeConfig) -> None:
    worlds = {"name": "rooms", "kind": "depth", "source": "street", "street_samples": 4, "street_scenes": [["room", 1.0]]}
    built = build_sources(make_config(data=data(root, [worlds, entries()[0]])).data, 5)
    (mixture, _), *_ = built.train
    assert [len(part) for part in mixture.datasets] == [4, 5]
    assert [len(part) for part in built.val.datasets] == [32, 2]
    sample = mixture[0]
    assert np.isfinite(sample.inverse).all()
    assert 0.1 < np.median(sample.inverse) < 2  # a room is 0.5 to 10 m deep
    assert sample.dataset == 0


def test_images_without_depth_are_left_out_and_counted(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "lidar"
    (folder / "depth").mkdir(parents=True)
    (folder / "image").symlink_to(root / "lidar" / "image")
    (folder / "meta.json").symlink_to(root / "lidar" / "meta.json")
    for index in (1, 4, 6):
        (folder / "depth" / f"{index:03d}.png").symlink_to(root / "lidar" / "depth" / f"{index:03d}.png")
    config = merge(TrainConfig(), {"data": data(tmp_path, entries()[:1])}, "test")
    with pytest.warns(UserWarning, match=r"3 of 5 images have no depth and are left out; the first is .*000.png"):
        built = build_sources(config.data, 0)
    assert [len(built.train[0][0]), len(built.val)] == [2, 1]
    lacking = merge(TrainConfig(), {"data": data(tmp_path, [{**entries()[0], "train_frames": [2, 4]}])}, "test")
    with (
        pytest.warns(UserWarning, match="2 of 2 images have no depth"),
        pytest.raises(InputError, match=r"data.mix: 'lidar': no image of part 'train' has an inverse depth"),
    ):
        build_sources(lacking.data, 0)


@pytest.mark.parametrize(
    ("mix", "message"),
    [
        ([], r"data.mix is empty; expected the datasets that data.source: mixed is made of"),
        ([{"kind": "depth"}], r"data.mix: entry 1 has no name; expected one"),
        (entries(film={"kind": "movies"}), r"'film': kind is 'movies'; did you mean 'movie'\? expected one of depth, disparity"),
        (entries(film={"kind": ""}), r"'film': kind is ''; expected one of depth, disparity, sfm, movie"),
        ([*entries(), entries()[1]], r"data.mix: several datasets are called 'pairs'; expected a name for each"),
        (entries(lidar={"source": "mixed"}), r"data.mix: 'lidar': data.source is 'mixed'; expected one of video, folder"),
        (
            entries(lidar={"truth": "lidar"}),
            r"'lidar': data.truth is 'lidar', but source 'folder' has a single truth",
        ),
        (entries(lidar={"path": "nowhere"}), r"data.mix: 'lidar': .*nowhere"),
        (entries(pairs={"truth": ""}), r"data.mix: 'pairs': .*has no calibration, so that its depth has no metres"),
        (entries(lidar={"kind": "movie"}), r"data.mix: 'lidar': .*has no right camera; expected stereo pairs to match"),
        (
            entries(lidar={"val_frames": [5, 9]}),
            r"data.mix: 'lidar': .*val_frames is \[5, 9\], and the recording holds 7",
        ),
        (entries(lidar={"val_frames": [0, 0]}), r"data.mix: 'lidar': .*data.val_frames is \[0, 0\], .*expected \[first, last\]"),
    ],
)
def test_what_cannot_be_mixed_names_its_entry(root: Path, mix: list, message: str) -> None:
    with pytest.raises((ConfigError, InputError), match=message):
        build_sources(merge(TrainConfig(), {"data": data(root, mix)}, "test").data, 0)


def test_streets_beside_a_mix_are_refused(root: Path, make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match=r"data.street_share is for another data.source; with mixed, make street an entry"):
        build_sources(make_config(data=data(root, street_share=0.2)).data, 0)


def test_a_mix_that_nothing_reads_is_refused(root: Path, make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match=r"data.mix names 4 datasets, but data.source is 'street'; expected mixed, or no mix"):
        build_sources(make_config(data=data(root, source="street")).data, 0)


@pytest.mark.parametrize(("batch", "processes"), [(6, 1), (4, 2), (12, 2)])
def test_batches_that_cannot_be_shared_name_their_numbers(batch: int, processes: int) -> None:
    message = rf"optim.batch_size is {batch}; expected a multiple of {4 * processes}, .* 4 datasets .* and {processes} processes"
    with pytest.raises(ConfigError, match=message):
        EqualShares((5, 2, 3, 4), batch, 0, 0, 0, processes)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{name: a, pth: b}", "data: mix: 'a': unknown key 'pth'; did you mean 'path'?"),
        ("{pth: b}", "data: mix: unknown key 'pth'; did you mean 'path'?"),
        ("{name: a, width: 64}", "data: mix: 'a': unknown key 'width'"),
        ("{name: a, train_frames: [1]}", "data: mix: 'a': train_frames: found [1]; expected 2 entries"),
        ("{name: a, subset: 2}", "data.mix: 'a'.subset is 2.0; expected a share above 0, to 1"),
        ("kitti", "data: mix: found 'kitti'; expected a section of keys"),
    ],
)
def test_an_entry_is_checked_like_every_section(tmp_path: Path, entry: str, message: str) -> None:
    file = tmp_path / "mix.yaml"
    file.write_text(f"data: {{mix: [{entry}]}}")
    with pytest.raises(ConfigError) as error:
        load_config(file)
    assert str(error.value).startswith(str(file))
    assert message in str(error.value)


def test_a_mix_survives_its_own_file(root: Path) -> None:
    config = merge(TrainConfig(), {"data": data(root)}, "test")
    assert merge(TrainConfig(), json.loads(json.dumps(to_dict(config))), "again") == config
    assert config.data.mix[1].train_frames == (0, 2)


def test_the_loader_alone_reads_a_mix(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mix.json"  # JSON is YAML
    file.write_text(json.dumps({"data": data(root, width=192, height=64, workers=0), "optim": {"batch_size": 4}}))
    assert main([str(file), "--loader-only", "2"]) == 0
    assert "(2 batches of 4, 0 workers)" in capsys.readouterr().out


def test_the_mix_of_the_docs_loads(make_config: MakeConfig, shared_data: Path) -> None:
    """The YAML of docs/mixed.md, with a few worlds and pairs."""
    values = documented(0)
    mix = {entry["name"]: entry for entry in values["data"]["mix"]}
    mix["worlds"]["street_samples"] = 2
    mix["drive"] |= {"train_frames": [0, 2], "val_frames": [50, 51]}
    config = make_config(data=values["data"] | {"root": str(shared_data)}, optim=values["optim"])
    with pytest.warns(UserWarning, match="135 of 180 images have no depth"):
        built = build_sources(config.data, 0)
    batch = next(training_batches(built, config, 0))
    assert torch.bincount(batch.dataset).tolist() == [2] * 5
    assert (batch.valid.flatten(1).float().mean(dim=1) > 0.2).all()

"""From a configuration to batches: order, shares, and where a run resumes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from depth_ros.types import CameraModel, InputError
from training.config import ConfigError, TrainConfig
from training.data.loading import build_sources, training_batches, validation_batches
from training.data.order import Shuffled
from training.data.street import StreetConfig
from training.data.street.samples import StreetSamples

MakeConfig = Callable[..., TrainConfig]


def video_data(folder: Path, **changes: object) -> dict[str, object]:
    return {
        "root": str(folder), "images": "image", "calibration": "camera.yaml", "poses": "poses.txt",
        "train_frames": [0, 10], "val_frames": [10, 14], **changes,
    }  # fmt: skip


def test_an_epoch_shows_every_sample_once_in_an_order_of_its_own() -> None:
    batches = list(itertools.islice(Shuffled(12, 3, seed=5), 8))
    first, second = (list(itertools.chain(*half)) for half in (batches[:4], batches[4:]))
    assert sorted(first) == list(range(12))
    assert sorted(second) == list(range(12, 24))  # the second draw of each
    assert [number - 12 for number in second] != first
    assert batches[:4] != list(itertools.islice(Shuffled(12, 3, seed=6), 4))


@pytest.mark.parametrize("start", [0, 1, 4, 7])
def test_a_resumed_run_sees_what_it_would_have_seen(start: int) -> None:
    whole = list(itertools.islice(Shuffled(13, 3, seed=5), 12))
    assert list(itertools.islice(Shuffled(13, 3, seed=5, start=start), 12 - start)) == whole[start:]


def test_processes_share_every_batch() -> None:
    whole = list(itertools.islice(Shuffled(13, 6, seed=5), 5))
    shares = [list(itertools.islice(Shuffled(13, 6, seed=5, rank=rank, world_size=3), 5)) for rank in range(3)]
    assert [[*a, *b, *c] for a, b, c in zip(*shares, strict=True)] == whole


def test_batches_that_do_not_fit_are_named() -> None:
    with pytest.raises(ConfigError, match=r"optim.batch_size is 8, but a source has only 5 samples"):
        Shuffled(5, 8, seed=0)
    with pytest.raises(ConfigError, match=r"optim.batch_size is 5; expected a multiple of the 2 processes that share it"):
        Shuffled(9, 5, seed=0, world_size=2)


def test_streets_alone_need_no_recording(make_config: MakeConfig) -> None:
    sources = build_sources(make_config(data={"source": "street", "street_samples": 6}).data, seed=1)
    assert [(len(dataset), share) for dataset, share in sources.train] == [(6, 1.0)]
    assert len(sources.val) == 32
    assert (sources.camera.width, sources.camera.height) == (192, 64)
    assert sources.camera.fx == pytest.approx(721.5377 * 192 / 1242)
    assert not np.array_equal(sources.train[0][0][0].image, sources.val[0].image)


@pytest.mark.parametrize("made", [{}, {"plain": 1.0}, {"textures": "test"}])
def test_the_worlds_are_made_as_asked_for(camera: CameraModel, make_config: MakeConfig, made: dict[str, object]) -> None:
    asked = {f"street_{key}": value for key, value in made.items()}
    rooms = {"source": "street", "street_samples": 4, "street_scenes": [["room", 1.0]], **asked}
    (dataset, _), *_ = build_sources(make_config(data=rooms).data, seed=1).train
    for config in (StreetConfig(), StreetConfig(plain=1.0), StreetConfig(textures="test")):
        world = StreetSamples(camera, 4, seed=4, config=config, scenes=[("room", 1.0)])
        assert np.array_equal(dataset[0].image, world[0].image) == (config == StreetConfig(**made))


def test_the_streets_are_seen_through_the_videos_camera(street_video: Path, make_config: MakeConfig) -> None:
    data = video_data(street_video, street_share=0.3, street_samples=4, width=96, height=32, street_views=["right"])
    sources = build_sources(make_config(data=data).data, seed=0)
    (video, _), (streets, _) = sources.train
    assert np.allclose(video[0].K, streets[0].K)
    assert streets[0].views[0].source_T_target[0, 3] == pytest.approx(-0.54)


def test_video_and_validation_share_no_frame(street_video: Path, make_config: MakeConfig) -> None:
    sources = build_sources(make_config(data=video_data(street_video, offsets=[[-1, 1], [-2, 2]])).data, seed=0)
    train, val = sources.train[0][0], sources.val
    assert [[t.index for t in clips.targets] for clips in (train, val)] == [[2, 3, 4, 5, 6, 7], [1, 2]]  # of 0-9 and of 10-13
    assert sources.skipped == 4 + 2
    batches = list(validation_batches(sources, batch_size=8))
    assert [batch.image.shape for batch in batches] == [(2, 3, 64, 192)]


def test_each_source_gives_its_share_of_the_batches(street_video: Path, make_config: MakeConfig) -> None:
    config = make_config(data=video_data(street_video, street_share=0.25, street_samples=2, width=96, height=32))
    batches = list(itertools.islice(training_batches(build_sources(config.data, 0), config, 0), 80))
    with_truth = sum(batch.depth is not None for batch in batches)
    assert 10 <= with_truth <= 30  # 20 expected, 3.9 standard deviation
    assert all((batch.depth is None) == (len(batch.views) == 2) for batch in batches)


@pytest.mark.parametrize("changes", [{}, {"street_share": 0.5, "street_samples": 2}], ids=["video", "two sources"])
def test_a_batch_depends_on_its_number_alone(street_video: Path, make_config: MakeConfig, changes: dict[str, object]) -> None:
    config = make_config(data=video_data(street_video, offsets=[[-1], [-2], [-3]], **changes))
    whole = list(itertools.islice(training_batches(build_sources(config.data, 0), config, 0), 9))
    for start in (1, 5, 8):
        rest = list(itertools.islice(training_batches(build_sources(config.data, 0), config, start), 9 - start))
        for a, b in zip(whole[start:], rest, strict=True):
            assert torch.equal(a.image, b.image)
            assert len(a.views) == len(b.views)
            assert all(torch.equal(v.image, w.image) for v, w in zip(a.views, b.views, strict=True))


def test_a_bootstrap_sample_is_a_seeded_share(street_video: Path, make_config: MakeConfig) -> None:
    def chosen(**changes: object) -> list[int]:
        data = make_config(data=video_data(street_video, offsets=[[]], train_frames=[0, 12], val_frames=[12, 14], **changes)).data
        return [t.index for t in build_sources(data, 0).train[0][0].targets]

    half = chosen(subset=0.5, subset_seed=1)
    assert len(half) == 6
    assert set(half) < set(chosen())
    assert half == chosen(subset=0.5, subset_seed=1) != chosen(subset=0.5, subset_seed=2)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_image_is_one_clear_line_also_from_a_worker(
    tmp_path: Path, make_config: MakeConfig, workers: int, street_video: Path
) -> None:
    folder = tmp_path / "video"
    (folder / "image").mkdir(parents=True)
    for name in ("camera.yaml", "poses.txt"):
        (folder / name).write_bytes((street_video / name).read_bytes())
    for file in (street_video / "image").iterdir():
        (folder / "image" / file.name).write_bytes(b"no image")
    config = make_config(data=video_data(folder, workers=workers))
    with pytest.raises(InputError) as error:
        next(training_batches(build_sources(config.data, 0), config, 0))
    assert str(error.value).startswith(str(folder / "image"))
    assert str(error.value).endswith(".png: cannot be read as an image")


def test_a_source_that_is_missing_is_asked_for(make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match=r"data.images is empty; name the folder of a video, or choose another data.source"):
        build_sources(make_config().data, 0)
    with pytest.raises(ConfigError, match=r"data.calibration is empty; name the ROS camera calibration YAML"):
        build_sources(make_config(data={"images": "image"}).data, 0)
    streets = make_config(data={"source": "street", "street_views": ["behind"]}).data
    with pytest.raises(ConfigError, match=r"data.street_views holds behind; expected some of before, after, right"):
        build_sources(streets, 0)

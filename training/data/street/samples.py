"""Training samples from the procedural street world: images, poses and exact depth, rendered when first asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch.utils.data import Dataset

from depth_ros.types import CameraModel, Float32Array, UInt8Array
from training.batch import Sample, SampleView
from training.config import ConfigError, DataConfig
from training.data.recording import Recording, Target
from training.data.street.config import SCENES, StreetConfig
from training.data.street.world import Street, kitti_camera

VIEWS = {"before": (-0.1, 0.0), "after": (0.1, 0.0), "right": (0.0, 1.0), "left": (0.0, -1.0)}  # time [s], sideways [baselines]
BASELINE_M = {"street": 0.54, "room": 0.12, "ground": 0.54}  # as KITTI's; in a room the other camera must clear the door posts
SAMPLES_PER_STREET = 4
SECONDS_APART = 5.0
VALIDATION_SEED = 1_000
VALIDATION_SAMPLES = 32
MAX_DEPTH_M = 100.0  # the truth of the sky, which no photograph teaches, and of all that is farther


class StreetSamples(Dataset[Sample]):
    """`count` samples, SAMPLES_PER_STREET moments of each street. Raises ConfigError for a view or scene that does not exist.

    Without `known_poses` those of the views before and after are left out, and only the distance driven is given. `scenes`
    names kinds of scene and their shares, say (("street", 0.7), ("room", 0.3)), in place of the one of `config`.
    """

    def __init__(
        self, camera: CameraModel, count: int, *, views: Sequence[str] = (), seed: int = 0, known_poses: bool = True,
        config: StreetConfig | None = None, scenes: Sequence[tuple[str, float]] = (),
    ) -> None:  # fmt: skip
        unknown = set(views) - set(VIEWS)
        if unknown:
            raise ConfigError(f"data.street_views holds {', '.join(sorted(unknown))}; expected some of {', '.join(VIEWS)}")
        self.config = config or StreetConfig()
        self.scenes = tuple(scenes) or ((self.config.scene, 1.0),)
        for name, share in self.scenes:
            if name not in SCENES or not 0.0 <= share < np.inf:
                raise ConfigError(f"data.street_scenes holds ({name}, {share}); expected {', '.join(SCENES)} and shares from 0")
        if sum(share for _, share in self.scenes) <= 0.0:
            raise ConfigError("data.street_scenes holds no share above 0; give at least one scene a share")
        self.camera, self.count, self.views, self.seed = camera, count, tuple(views), seed
        self.K, self.known_poses = camera.K, known_poses
        self._rendered: dict[int, Sample] = {}

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        """The index-th sample, counted round; kept in memory once rendered."""
        index %= self.count
        if index not in self._rendered:
            self._rendered[index] = self._render(index)
        return self._rendered[index]

    def kind(self, seed: int) -> str:
        """The kind of scene that a seed shows; it depends on the seed and the shares alone."""
        names, shares = zip(*self.scenes, strict=True)
        return str(np.random.default_rng([seed, len(names)]).choice(names, p=np.array(shares) / sum(shares)))

    def _render(self, index: int) -> Sample:
        seed = self.seed + index // SAMPLES_PER_STREET
        street = Street(seed, replace(self.config, scene=self.kind(seed)))
        t_s = 1.0 + SECONDS_APART * (index % SAMPLES_PER_STREET)
        world_T_target = street.pose(t_s)
        target = street.render(self.camera, world_T_target, t_s)
        views = []
        for seconds, baselines in (VIEWS[name] for name in self.views):
            aside = np.eye(4)
            aside[0, 3] = baselines * BASELINE_M[street.config.scene]
            world_T_source = street.pose(t_s + seconds) @ aside
            image = street.render(self.camera, world_T_source, t_s + seconds).image
            source_T_target = np.linalg.inv(world_T_source) @ world_T_target
            distance = float(np.linalg.norm(source_T_target[:3, 3]))
            known = self.known_poses or seconds == 0
            views.append(SampleView(image, source_T_target if known else None, distance, int(np.sign(seconds))))
        depth = np.minimum(target.depth, np.float32(MAX_DEPTH_M))
        return Sample(target.image, self.K, tuple(views), depth)


class StreetTruth(Recording):
    """The samples as images to judge on."""

    def __init__(self, samples: StreetSamples, name: str = "streets") -> None:
        self.samples, self.name = samples, name

    def __len__(self) -> int:
        return len(self.samples)

    def image_name(self, index: int, right: bool = False) -> str:
        """See Recording."""
        return f"{index:06d}"

    def camera(self, index: int) -> CameraModel:
        """See Recording."""
        return self.samples.camera

    def image(self, index: int, right: bool = False, least: tuple[int, int] = (0, 0)) -> tuple[UInt8Array, CameraModel]:
        """See Recording."""
        return self.samples[index].image, self.samples.camera

    def depth(self, index: int, right: bool = False) -> Float32Array | None:
        """See Recording."""
        return self.samples[index].depth

    def has_depth(self, index: int, right: bool = False) -> bool:
        """See Recording."""
        return True


def open_streets(config: DataConfig, camera: CameraModel, part: str, seed: int) -> StreetSamples:
    """The worlds of a configuration as `camera` sees them: data.street_samples to train on, others to validate ("val")."""
    seed, count = (VALIDATION_SEED, VALIDATION_SAMPLES) if part == "val" else (seed, config.street_samples)
    world = StreetConfig(textures=config.street_textures, plain=config.street_plain)
    return StreetSamples(
        camera, count, views=config.street_views, seed=seed * count, known_poses=config.known_poses,
        config=world, scenes=config.street_scenes,
    )  # fmt: skip


def open_street_truth(config: DataConfig, part: str, seed: int) -> list[Target]:
    """The same as single images with their depth, seen by KITTI's camera at the network's size."""
    samples = open_streets(replace(config, street_views=()), kitti_camera(config.width, config.height), part, seed)
    truth = StreetTruth(samples, f"streets to {part}")
    return [Target(truth, index) for index in range(len(truth))]

"""Training samples from the procedural street world: images, poses and exact depth, rendered when first asked for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch.utils.data import Dataset

from depth_ros.types import CameraModel
from training.batch import Sample, SampleView
from training.config import ConfigError
from training.data.street import Street

VIEWS = {"before": (-0.1, 0.0), "after": (0.1, 0.0), "right": (0.0, 0.54)}  # time [s] and sideways shift [m]
SAMPLES_PER_STREET = 4
SECONDS_APART = 5.0
MAX_DEPTH_M = 100.0  # the truth of the sky, which no photograph teaches, and of all that is farther


class StreetSamples(Dataset[Sample]):
    """`count` samples, SAMPLES_PER_STREET moments of each street. Raises ConfigError for a view that does not exist.

    Without `known_poses` those of the views before and after are left out, and only the distance driven is given.
    """

    def __init__(
        self, camera: CameraModel, count: int, *, views: Sequence[str] = (), seed: int = 0, known_poses: bool = True
    ) -> None:
        unknown = set(views) - set(VIEWS)
        if unknown:
            raise ConfigError(f"data.street_views holds {', '.join(sorted(unknown))}; expected some of {', '.join(VIEWS)}")
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

    def _render(self, index: int) -> Sample:
        street = Street(self.seed + index // SAMPLES_PER_STREET)
        t_s = 1.0 + SECONDS_APART * (index % SAMPLES_PER_STREET)
        world_T_target = street.pose(t_s)
        target = street.render(self.camera, world_T_target, t_s)
        views = []
        for seconds, metres in (VIEWS[name] for name in self.views):
            aside = np.eye(4)
            aside[0, 3] = metres
            world_T_source = street.pose(t_s + seconds) @ aside
            image = street.render(self.camera, world_T_source, t_s + seconds).image
            source_T_target = np.linalg.inv(world_T_source) @ world_T_target
            distance = float(np.linalg.norm(source_T_target[:3, 3]))
            known = self.known_poses or seconds == 0
            views.append(SampleView(image, source_T_target if known else None, distance, int(np.sign(seconds))))
        depth = np.minimum(target.depth, np.float32(MAX_DEPTH_M))
        return Sample(target.image, self.K, tuple(views), depth)

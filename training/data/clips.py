"""Training samples from recordings: a target image with its neighbours in time and its partner in a stereo pair."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch.utils.data import Dataset

from depth_ros.images import resize_image
from depth_ros.types import CameraModel, Float32Array, Float64Array, InputError
from training.batch import Sample, SampleView
from training.data.recording import Recording, Target

Offsets = Sequence[Sequence[int]]


class Clips(Dataset[Sample]):
    """One sample per target, resized to the network's input by the robot's own code.

    `offsets` are sets of neighbours in frames, of which each sample draws one; with `stereo` the other camera's image is one
    more view. A target that lacks a neighbour of any set is left out and counted in `skipped`. Item index + k len(self) is the
    sample's k-th draw, so that an item depends on nothing but its number. Raises InputError where nothing is left, or where
    poses, the other camera or the true depth are asked for and a recording lacks them.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        size: tuple[int, int],
        *,
        offsets: Offsets = ((-1, 1),),
        stereo: bool = False,
        known_poses: bool = True,
        depth: bool = False,
        seed: int = 0,
    ) -> None:
        self.size, self.offsets, self.stereo, self.known_poses, self.depth, self.seed = (
            size, offsets, stereo, known_poses, depth, seed
        )  # fmt: skip
        self.targets = [target for target in targets if self._is_complete(target)]
        self.skipped = len(targets) - len(self.targets)
        for recording in {id(t.recording): t.recording for t in targets}.values():
            self._check(recording)
        if not self.targets:
            raise InputError(
                f"none of {len(targets)} images has its neighbours {[list(o) for o in offsets]}; expected consecutive frames: "
                "choose smaller data.offsets, or [[]] for no neighbours"
            )

    @property
    def camera(self) -> CameraModel:
        """Camera of the first target at the network's input size."""
        return self.targets[0].recording.camera(self.targets[0].index).resized(*self.size)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, number: int) -> Sample:
        """The sample of target number % len(self). Raises InputError for an image that cannot be read."""
        draw, index = divmod(number, len(self))
        target = self.targets[index]
        chosen = np.random.default_rng([self.seed, draw, index]).integers(len(self.offsets))
        image, K = self._read(target, target.index, target.right)
        views = [self._neighbour(target, offset) for offset in self.offsets[chosen]]
        if self.stereo:
            views.append(self._partner(target))
        depth = self._true_depth(target, K) if self.depth else None
        return Sample(image, K, tuple(views), depth)

    def _is_complete(self, target: Target) -> bool:
        reach = {offset for group in self.offsets for offset in group}
        return all(target.recording.neighbour(target.index, offset) is not None for offset in reach)

    def _check(self, recording: Recording) -> None:
        if self.stereo and recording.baseline_m is None:
            raise InputError(f"{recording.name}: has no right camera; expected a stereo pair, or set data.stereo: false")
        if any(self.offsets) and self.known_poses and recording.world_T_camera is None:
            raise InputError(
                f"{recording.name}: has no poses; expected them where its layout keeps them (data.poses of a video), "
                "or set data.known_poses: false to learn them"
            )

    def _read(self, target: Target, index: int, right: bool) -> tuple[np.ndarray, Float64Array]:
        image, camera = target.recording.image(index, right, least=self.size)
        return resize_image(image, *self.size), camera.resized(*self.size).K

    def _neighbour(self, target: Target, offset: int) -> SampleView:
        recording, source = target.recording, target.recording.neighbour(target.index, offset)
        assert source is not None
        image, _ = self._read(target, source, target.right)
        order = 1 if offset > 0 else -1
        if recording.world_T_camera is None:
            travelled = recording.travelled_m
            speed = None if travelled is None else abs(float(travelled[source] - travelled[target.index]))
            return SampleView(image, None, speed, order)
        aside = _aside(recording.baseline_m or 0.0) if target.right else np.eye(4)
        poses = recording.world_T_camera
        source_T_target = np.linalg.inv(poses[source] @ aside) @ poses[target.index] @ aside
        speed = float(np.linalg.norm(source_T_target[:3, 3]))
        return SampleView(image, source_T_target if self.known_poses else None, speed, order)

    def _partner(self, target: Target) -> SampleView:
        image, _ = self._read(target, target.index, not target.right)
        baseline = target.recording.baseline_m or 0.0
        return SampleView(image, _aside(baseline if target.right else -baseline))

    def _true_depth(self, target: Target, K: Float64Array) -> Float32Array:
        depth = target.recording.depth(target.index, target.right)
        if depth is None:
            return np.zeros(self.size[::-1], np.float32)
        camera = target.recording.camera(target.index).resized(depth.shape[1], depth.shape[0])
        return shrink_depth(depth, camera.K, K, *self.size)


def _aside(metres: float) -> Float64Array:
    """Shift along the camera's x axis (4, 4)."""
    pose = np.eye(4)
    pose[0, 3] = metres
    return pose


def shrink_depth(depth: Float32Array, depth_K: Float64Array, K: Float64Array, width: int, height: int) -> Float32Array:
    """Return sparse depth (H, W) [m] seen through depth_K as (height, width) seen through K.

    Each pixel is the nearest of the measurements that fall into it, 0 without any.
    """
    known = np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(np.nan))
    return np.nan_to_num(_gather(known, depth_K, K, (height, width), np.fmin))


def shrink_inverse(inverse: Float32Array, inverse_K: Float64Array, K: Float64Array, width: int, height: int) -> Float32Array:
    """As shrink_depth(), of inverse depth: the largest of the values that fall into a pixel, NaN without any."""
    return _gather(inverse, inverse_K, K, (height, width), np.fmax)


def _gather(
    values: Float32Array, values_K: Float64Array, K: Float64Array, shape: tuple[int, int], nearest: np.ufunc
) -> Float32Array:
    """The `nearest` of all values (H, W) that fall into each pixel of another camera; NaN is no value."""
    rows, columns = np.nonzero(np.isfinite(values))
    scale, shift = np.diag(K) / np.diag(values_K), K[:, 2] - values_K[:, 2] * np.diag(K) / np.diag(values_K)
    u, v = (np.floor(i * scale[axis] + shift[axis] + 0.5).astype(int) for axis, i in ((0, columns), (1, rows)))
    inside = (u >= 0) & (u < shape[1]) & (v >= 0) & (v < shape[0])
    result = np.full(shape, np.nan, np.float32)
    nearest.at(result, (v[inside], u[inside]), values[rows, columns][inside])
    return result

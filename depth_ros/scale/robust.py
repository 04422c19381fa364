"""A linear fit that survives almost half of its samples being wrong, and knows how sure it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from depth_ros.types import BoolArray, CameraModel, Float64Array

KEPT = 1000  # samples that are fitted; more bring nothing, since errors of neighbouring pixels hang together
HYPOTHESES = 200  # with 40 % outliers, 43 of them are free of any at three unknowns
CORE = 2.5  # deviations within which a sample counts as inlier (Rousseeuw & Leroy 1987)
CORE_SPREAD = 0.9546  # standard deviation of a unit normal cut off there
TUKEY = 4.685  # deviations at which the biweight ends: 95 % efficient for a normal
LEAST_SCATTER = 1e-6  # of the stated spread, for samples without any noise
PRIOR_CELLS = 4.0  # cells that the stated spread counts for, against the scatter that is seen between cells
GRID = (4, 8)  # rows and columns of cells over an image


@dataclass(frozen=True)
class Fit:
    """Coefficients (p,) with covariance (p, p); inliers is a mask over the samples that were fitted."""

    coefficients: Float64Array
    covariance: Float64Array
    inliers: BoolArray
    scatter: float  # standard deviation of the inliers' residuals, in units of the stated spread


def grid_cells(u: NDArray[np.integer], v: NDArray[np.integer], camera: CameraModel) -> NDArray[np.integer]:
    """Return the number of the image cell (4 rows of 8) that each pixel lies in: the errors of a network hang together there."""
    rows, columns = GRID
    cells: NDArray[np.integer] = (v * rows // camera.height) * columns + u * columns // camera.width
    return cells


def thinned(count: int) -> NDArray[np.integer]:
    """Return the indices of at most KEPT of `count` samples, evenly spread and always the same."""
    return np.unique(np.linspace(0, count - 1, min(count, KEPT)).astype(np.intp))


def robust_fit(design: Float64Array, target: Float64Array, spread: Float64Array, cells: NDArray[np.integer]) -> Fit:
    """Fit target (n,) = design (n, p) @ coefficients, for samples whose errors have the standard deviation spread (n,).

    Start: least median of squares over random minimal subsets (Rousseeuw 1984), refined scale, then Tukey's biweight
    by iterated reweighting. Covariance: errors are independent between cells only (the cluster-robust sandwich of Liang &
    Zeger 1986), shrunk towards what one error of the stated spread in each cell would give, since a few cells tell little.
    Raises numpy.linalg.LinAlgError where the samples do not determine the coefficients.
    """
    x, y = design / spread[:, None], target / spread
    count, unknowns = x.shape
    coefficients: Float64Array = _least_median(x, y)
    scatter = max(1.4826 * (1 + 5 / max(count - unknowns, 1)) * float(np.median(np.abs(y - x @ coefficients))), LEAST_SCATTER)
    for _ in range(10):
        core = np.abs(y - x @ coefficients) <= CORE * scatter
        freedom = int(core.sum()) - unknowns
        if freedom > 0:
            seen = float(np.sqrt(np.sum((y - x @ coefficients)[core] ** 2) / freedom)) / CORE_SPREAD
            scatter = min(scatter, max(seen, LEAST_SCATTER))
        ratio = np.clip(np.abs(y - x @ coefficients) / (TUKEY * scatter), 0, 1)
        weight = (1 - ratio**2) ** 2
        coefficients = np.linalg.solve(x.T @ (weight[:, None] * x), x.T @ (weight * y)).astype(np.float64)
    residual = y - x @ coefficients
    covariance = _covariance(x, residual, scatter, cells)
    return Fit(coefficients, covariance, np.abs(residual) <= CORE * scatter, scatter)


def _least_median(x: Float64Array, y: Float64Array) -> Float64Array:
    count, unknowns = x.shape
    subsets = np.random.default_rng(0).integers(0, count, (HYPOTHESES, unknowns))
    a, b = x[subsets], y[subsets]
    norms = np.prod(np.linalg.norm(a, axis=2), axis=1)
    regular = np.abs(np.linalg.det(a)) > 1e-9 * norms
    if not regular.any():
        raise np.linalg.LinAlgError("the samples do not determine the coefficients")
    hypotheses = np.linalg.solve(a[regular], b[regular][..., None])[..., 0]
    medians = np.median(np.abs(y - hypotheses @ x.T), axis=1)
    best: Float64Array = hypotheses[np.argmin(medians)]
    return best


def _covariance(x: Float64Array, residual: Float64Array, scatter: float, cells: NDArray[np.integer]) -> Float64Array:
    """Covariance of the coefficients: of an M-estimate (Huber 1964), with scores summed over cells.

    Slopes below 0, of the few residuals at the biweight's rim, count as 0: the matrix must not turn indefinite.
    """
    u = residual / (TUKEY * scatter)
    used = np.abs(u) < 1
    x, residual, u = x[used], residual[used], u[used]
    weight, slope = (1 - u**2) ** 2, np.maximum((1 - u**2) * (1 - 5 * u**2), 0)
    _, index = np.unique(cells[used], return_inverse=True)
    groups, unknowns = int(index.max()) + 1, x.shape[1]
    weighted = weight[:, None] * x
    scores, moments = np.zeros((groups, unknowns)), np.zeros((groups, unknowns))
    np.add.at(scores, index, weighted * residual[:, None])
    np.add.at(moments, index, weighted)
    bread = np.linalg.inv(x.T @ (slope[:, None] * x))
    stated = moments.T @ moments
    if groups <= unknowns:
        meat = stated
    else:
        seen = scores.T @ scores * (groups / (groups - unknowns))
        meat = (PRIOR_CELLS * stated + groups * seen) / (PRIOR_CELLS + groups)
    covariance: Float64Array = bread @ meat @ bread
    return covariance

"""How do many large points become few numbers each? Exact principal axes, with only a block of points in memory.

The map of the CLS vectors takes its t-SNE from here.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

# Variance of equal numbers, in units of their square: sums of float64 are off by some 1e-16 each.
ROUNDING = 1e-28


@dataclass(frozen=True)
class PrincipalAxes:
    """The directions along which points differ most.

    mean:     (feature,) float64
    axes:     orthonormal, (axis, feature) float64, largest variance first. In each the number of largest size is
              positive. Axes along which nothing varies are 0.
    variance: along each axis, divided by the number of points, (axis,) float64
    share:    of the variance that all axes together explain, 0 … 1; 1 where nothing varies
    """

    mean: np.ndarray
    axes: np.ndarray
    variance: np.ndarray
    share: float

    def project(self, points: np.ndarray) -> np.ndarray:
        """Scores of points (point, feature) → (point, axis) float32; NaN for points with a NaN or Inf."""
        known = _finite(points)
        scores = np.full((len(points), len(self.axes)), np.nan, dtype=np.float32)
        scores[known] = (points[known].astype(np.float64) - self.mean) @ self.axes.T
        return scores


def principal_axes(blocks: Iterable[np.ndarray], count: int) -> PrincipalAxes:
    """The first `count` principal axes of all points of the blocks, exact, in float64.

    Mean and scatter of each block are merged into those of the blocks before (Chan, Golub & LeVeque 1983), so that no
    more than a block and two (feature, feature) matrices are in memory. The same blocks give the same bytes on one
    machine; points cut into other blocks give the same axes up to rounding. Where there are fewer than `count` axes
    (few points, few features, constant features) the rest are 0, and so are the scores along them.

    Args:
        blocks: Points, (point, feature) each, numbers or bool. Those with a NaN or Inf are left out.
        count: Number of axes, at least 1.
    Raises:
        ValueError: there is no block, or blocks differ in their number of features.
    """
    points, mean, scatter = 0, np.zeros(0), np.zeros((0, 0))
    for number, block in enumerate(blocks):
        if number == 0:
            mean, scatter = np.zeros(block.shape[1]), np.zeros((block.shape[1], block.shape[1]))
        if block.shape[1] != len(mean):
            raise ValueError(f"block {number} has {block.shape[1]} features, the blocks before it have {len(mean)}")
        known = block[_finite(block)].astype(np.float64)
        if not len(known):
            continue
        block_mean = known.mean(axis=0)
        known -= block_mean
        apart = block_mean - mean
        together = points + len(known)
        scatter += known.T @ known
        scatter += np.outer(apart, apart) * (points * len(known) / together)
        mean = mean + apart * (len(known) / together)
        points = together
    if not len(mean):
        raise ValueError("there is no block of points; give at least one, also if it has no points")
    return _axes(mean, scatter / max(points, 1), points, count)


def _axes(mean: np.ndarray, covariance: np.ndarray, points: int, count: int) -> PrincipalAxes:
    """The first axes of a covariance (feature, feature); those below rounding are 0."""
    variance, columns = np.linalg.eigh(covariance)
    first = min(count, len(mean), max(points - 1, 0))  # so many can points span
    axes, along = np.zeros((count, len(mean))), np.zeros(count)
    axes[:first], along[:first] = columns.T[::-1][:first], variance[::-1][:first]
    # Rounding leaves less than this: of the largest variance, or of the mean where all points are equal.
    varies = along > len(mean) * np.finfo(np.float64).eps * variance[-1] + ROUNDING * np.square(mean).max()
    axes[~varies], along[~varies] = 0, 0
    largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], axis=1)
    total = float(covariance.trace())
    return PrincipalAxes(
        mean, axes * np.where(largest < 0, -1, 1), along, float(along.sum()) / total if along.any() else 1.0
    )


def _finite(points: np.ndarray) -> np.ndarray:
    """Which points have neither NaN nor Inf, bool (point,)."""
    return np.isfinite(points).all(axis=1)

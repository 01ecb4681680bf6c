"""Measures of the geometry of representations.

Pure functions of float64 matrices whose rows are examples. ``unit`` is ``(N, D)`` with
rows of length 1, and ``labels`` has the label of each row, at least two distinct ones.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import gmean, hmean
from sklearn.metrics import silhouette_score

from fairseq_scl.errors import InputError

Matrix = NDArray[np.float64]
ROWS_AT_ONCE = 1024
TOP = 20
# The table heading of each measure.
MEASURES: Mapping[str, str] = {
    "geometric_mean": "GM",
    "harmonic_mean": "HM",
    "effective_rank": "eff. rank",
    "alignment": "alignment",
    "uniformity": "uniformity",
    "silhouette": "silhouette",
    "class_mean_cosine": "class cosine",
}


def measures(
    features: Matrix, labels: Sequence[str], top: int = TOP
) -> dict[str, float]:
    """Compute all measures of a feature matrix.

    Args:
        features: ``(N, D)``, the model's output, not normalized.
        labels: the true label of each example, at least two distinct ones.
        top: number of largest singular values to average, at least 1; lowered to the
            rank that a centered matrix of this shape can have.

    Returns:
        the measures, keyed as in :data:`MEASURES`.

    Raises:
        InputError: there are fewer than two classes or as many classes as examples, or
            features are not finite, zero or all equal.
    """
    features = np.asarray(features, dtype=np.float64)
    if len(set(labels)) < 2 or len(set(labels)) == len(labels):
        raise InputError(
            f"{len(labels)} examples of {len(set(labels))} classes: measuring "
            "representations needs at least two classes, and more examples than classes"
        )
    if not np.isfinite(features).all():
        raise InputError("the model computes features that are NaN or infinite")
    if not (features**2).sum(axis=1).all() or not np.ptp(features, axis=0).any():
        raise InputError("the model computes features that are zero or all equal")
    values = singular_values(features)
    unit = normalized(features)
    return {
        "geometric_mean": float(gmean(values[:top])),
        "harmonic_mean": float(hmean(values[:top])),
        "effective_rank": effective_rank(values),
        "alignment": alignment(unit, labels),
        "uniformity": uniformity(unit),
        "silhouette": float(silhouette_score(unit, labels, metric="cosine")),
        "class_mean_cosine": class_mean_cosine(unit, labels),
    }


def singular_values(features: Matrix) -> Matrix:
    """Return the singular values of the centered features, largest first.

    Args:
        features: ``(N, D)``.

    Returns:
        ``(min(N - 1, D),)``; centering lowers the rank by one where N ≤ D.
    """
    centered = features - features.mean(axis=0)
    values: Matrix = np.linalg.svd(centered, compute_uv=False)
    return values[: min(len(features) - 1, features.shape[1])]


def effective_rank(values: Matrix) -> float:
    """Return exp of the entropy of the singular values, Roy and Vetterli (2007).

    It is between 1 (a single direction) and the number of values (all equal).

    Args:
        values: singular values, at least one above 0.
    """
    shares = values[values > 0] / values.sum()
    return math.exp(-float((shares * np.log(shares)).sum()))


def normalized(features: Matrix) -> Matrix:
    """Return the rows ``(N, D)`` scaled to length 1."""
    unit: Matrix = features / np.linalg.norm(features, axis=1, keepdims=True)
    return unit


def alignment(unit: Matrix, labels: Sequence[str]) -> float:
    """Return the mean of ‖x - y‖² over pairs of equal label, Wang and Isola (2020)."""
    total, pairs = 0.0, 0
    for rows in _by_label(unit, labels).values():
        count = len(rows)
        # The sum over pairs is count · Σ‖x‖² - ‖Σx‖², and each ‖x‖ is 1.
        total += count**2 - float((rows.sum(axis=0) ** 2).sum())
        pairs += count * (count - 1) // 2
    return total / pairs


def uniformity(unit: Matrix) -> float:
    """Return log of the mean of exp(-2 ‖x - y‖²) over pairs, Wang and Isola (2020).

    It is 0 if all rows are equal; lower is more uniform.
    """
    count, total = len(unit), 0.0
    for start in range(0, count, ROWS_AT_ONCE):
        cosines = unit[start : start + ROWS_AT_ONCE] @ unit.T
        total += float(np.exp(4 * np.minimum(cosines, 1) - 4).sum())
    # The sum has every pair twice and every row with itself, which adds 1.
    return math.log((total - count) / (count * (count - 1)))


def class_mean_cosine(unit: Matrix, labels: Sequence[str]) -> float:
    """Return the mean cosine of two classes' mean vectors, over pairs of classes."""
    means = [rows.mean(axis=0) for rows in _by_label(unit, labels).values()]
    directions = normalized(np.stack(means))
    cosines = directions @ directions.T
    return float(cosines[np.triu_indices(len(means), 1)].mean())


def _by_label(unit: Matrix, labels: Sequence[str]) -> dict[str, Matrix]:
    names = np.asarray(labels)
    return {name: unit[names == name] for name in sorted(set(labels))}

"""The linear probe: what a frozen encoder tells a logistic regression of a task."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fairseq_scl.errors import InputError
from fairseq_scl.experiments.geometry import Matrix

STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)
ITERATIONS = 5000


@dataclass(frozen=True)
class Probe:
    """What a logistic regression on frozen features reached.

    Attributes:
        strength: C of scikit-learn, the inverse of the penalty, by validation accuracy;
            of equal ones the smallest, the strongest penalty.
        valid_correct: right answers in validation.
        valid_total: examples there.
        test_correct: right answers in the test.
        test_total: examples there.
    """

    strength: float
    valid_correct: int
    valid_total: int
    test_correct: int
    test_total: int

    @property
    def accuracy(self) -> float:
        """Test accuracy in percent."""
        return 100 * self.test_correct / self.test_total


def linear_probe(
    features: Mapping[str, Matrix], labels: Mapping[str, Sequence[str]]
) -> Probe:
    """Fit a logistic regression to frozen features; choose its penalty in validation.

    Each feature is shifted and scaled to mean 0 and variance 1 of the training set. The
    penalty is the square of the weights (L2), C one of :data:`STRENGTHS`. Nothing in it
    is random.

    Args:
        features: ``(N, D)`` of ``train``, ``valid`` and ``test``, float64.
        labels: of each row of them.

    Raises:
        InputError: the training set has one class only.
    """
    if len(set(labels["train"])) < 2:
        raise InputError("the linear probe needs training examples of two classes")
    best: Probe | None = None
    for strength in STRENGTHS:
        model = make_pipeline(
            StandardScaler(), LogisticRegression(C=strength, max_iter=ITERATIONS)
        )
        with warnings.catch_warnings():
            # A fit that stops early is no fit: better none than a wrong one.
            warnings.simplefilter("error", ConvergenceWarning)
            try:
                model.fit(features["train"], labels["train"])
            except ConvergenceWarning:
                raise InputError(
                    f"the linear probe did not converge in {ITERATIONS} steps at C = "
                    f"{strength:g}"
                ) from None
        right = {
            split: int(
                (model.predict(features[split]) == np.array(labels[split])).sum()
            )
            for split in ("valid", "test")
        }
        if best is None or right["valid"] > best.valid_correct:
            best = Probe(
                strength,
                right["valid"],
                len(labels["valid"]),
                right["test"],
                len(labels["test"]),
            )
    if best is None:  # never: STRENGTHS is not empty
        raise InputError("the linear probe has no penalty to try")
    return best

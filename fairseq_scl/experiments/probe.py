"""The linear probe: logistic regression on the features of a frozen encoder."""

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
    """Result of a logistic regression on frozen features.

    Attributes:
        strength: scikit-learn's C, the inverse of the penalty, chosen by validation
            accuracy; ties go to the smallest C, that is, to the strongest penalty.
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
    features: Mapping[str, Matrix],
    labels: Mapping[str, Sequence[str]],
    class_weights: str | None = None,
) -> Probe:
    """Fit logistic regressions to frozen features and choose the best by validation.

    Features are standardized with the mean and variance of the training set. The
    penalty is L2, with C from :data:`STRENGTHS`. The result is deterministic.

    Args:
        features: ``(N, D)`` for ``train``, ``valid`` and ``test``, float64.
        labels: the label of each row, per split.
        class_weights: ``balanced`` gives all classes the same weight.

    Raises:
        InputError: the training set has a single class, or a fit does not converge.
    """
    if len(set(labels["train"])) < 2:
        raise InputError("the linear probe needs training examples of two classes")
    probes = []
    for strength in STRENGTHS:
        regression = LogisticRegression(
            C=strength, class_weight=class_weights, max_iter=ITERATIONS
        )
        model = make_pipeline(StandardScaler(), regression)
        with warnings.catch_warnings():
            # A fit that stopped early would give a misleading accuracy.
            warnings.simplefilter("error", ConvergenceWarning)
            try:
                model.fit(features["train"], labels["train"])
            except ConvergenceWarning:
                raise InputError(
                    f"the linear probe did not converge in {ITERATIONS} steps at C = "
                    f"{strength:g}"
                ) from None
        counts = []
        for split in ("valid", "test"):
            right = model.predict(features[split]) == np.array(labels[split])
            counts += [int(right.sum()), len(right)]
        probes.append(Probe(strength, *counts))
    return max(probes, key=lambda probe: probe.valid_correct)  # the first of equals

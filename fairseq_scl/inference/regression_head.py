"""A logistic regression as the classification head of a fine-tuned encoder.

fairseq's head computes W·tanh(A·Φ(x) + a) + w. With the mean μ of the training features
and their standard deviation σ, one number for all dimensions, A = I/σ and a = -μ/σ
center and scale the features; W and w are then a logistic regression on the result. So
the model has the same form as after any other training.

After training with the contrastive term alone, this is the recipe ``few-shot``; before
training, it is the linear probe of LP-FT (Kumar et al. 2022, ICLR).
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torch import nn

# C·D, because the sum of squares of D features of variance 1 grows with D. Chosen by
# cross-entropy on validation sets, see docs/results.md.
PENALTY = 8.0
ITERATIONS = 5000


def fit_head(
    head: nn.Module,
    features: NDArray[np.float32],
    labels: Sequence[int],
    class_weights: str | None = None,
) -> None:
    """Replace the weights of a classification head by those of a logistic regression.

    The penalty is L2, with scikit-learn's C = 8/D for D features. The same features
    give the same head.

    Args:
        head: fairseq's, with ``dense``, ``(D, D)``, and ``out_proj``, ``(K, D)``.
        features: of the training examples, ``(N, D)``, finite.
        labels: their class ids; each of the K classes occurs.
        class_weights: ``balanced`` gives all classes the same weight.
    """
    center = features.mean(axis=0)
    scale = float(np.sqrt(features.var(axis=0).mean())) or 1.0
    regression = LogisticRegression(
        C=PENALTY / len(center), class_weight=class_weights, max_iter=ITERATIONS
    )
    regression.fit(np.tanh((features - center) / scale), labels)
    weight, bias = regression.coef_, regression.intercept_
    if len(weight) == 1:  # of two classes, the log-odds of the second
        weight, bias = np.vstack([-weight, weight]) / 2, np.hstack([-bias, bias]) / 2
    fitted = {
        "dense.weight": np.eye(len(center)) / scale,
        "dense.bias": -center / scale,
        "out_proj.weight": weight,
        "out_proj.bias": bias,
    }
    head.load_state_dict({name: torch.tensor(value) for name, value in fitted.items()})

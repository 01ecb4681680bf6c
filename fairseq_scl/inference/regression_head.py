"""A logistic regression as the classification head of a fine-tuned encoder.

fairseq's head computes W·tanh(A·Φ(x) + a) + w. With the mean μ of the training features
and their standard deviation σ, one number for all dimensions, A = I/σ and a = -μ/σ
center and scale the features; W and w are then a logistic regression on the result. So
the model folder has the same form as after any other training.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from fairseq_scl.data.binarize import read_split_labels
from fairseq_scl.inference.data_split import split_features
from fairseq_scl.inference.model_folder import export_classifier, load_classifier

# C·D, because the sum of squares of D features of variance 1 grows with D. Chosen by
# cross-entropy on validation sets, see docs/results.md.
PENALTY = 8.0
ITERATIONS = 5000


def regression_head(
    checkpoint: Path, data: Path, class_weights: str | None = None, device: str = "cpu"
) -> tuple[dict[str, Tensor], tuple[int, int]]:
    """Fit a head to a checkpoint's encoder by logistic regression on the training set.

    The penalty is L2, with scikit-learn's C = 8/D for D features. The same features
    give the same head.

    Args:
        checkpoint: a checkpoint of ``fairseq-train``; its own head is not used.
        data: the data folder that it was trained on.
        class_weights: ``balanced`` gives all classes the same weight.
        device: computes the features.

    Returns:
        weights and biases by the names of the model's, float32: ``dense``, ``(D, D)``
        and ``(D,)``, and ``out_proj``, ``(K, D)`` and ``(K,)`` for K classes; and how
        many examples of the validation set this head labels correctly, of how many.

    Raises:
        InputError: as ``export_classifier``, or the features are not finite.
    """
    with tempfile.TemporaryDirectory(dir=checkpoint.parent) as scratch:
        folder = Path(scratch, "model")
        export_classifier(checkpoint, data, folder)
        model = load_classifier(folder, device)
    ids = {label: number for number, label in enumerate(model.labels)}
    truth = {
        split: np.array([ids[label] for label in read_split_labels(data, split)])
        for split in ("train", "valid")
    }
    found = {s: split_features(model, data, s, checkpoint) for s in truth}
    center = found["train"].mean(axis=0)
    scale = float(np.sqrt(found["train"].var(axis=0).mean())) or 1.0
    inputs = {split: np.tanh((x - center) / scale) for split, x in found.items()}
    regression = LogisticRegression(
        C=PENALTY / len(center), class_weight=class_weights, max_iter=ITERATIONS
    )
    regression.fit(inputs["train"], truth["train"])
    weight, bias = regression.coef_, regression.intercept_
    if len(weight) == 1:  # of two classes, the log-odds of the second
        weight, bias = np.vstack([-weight, weight]) / 2, np.hstack([-bias, bias]) / 2
    right = int((regression.predict(inputs["valid"]) == truth["valid"]).sum())
    head = {
        "dense.weight": np.eye(len(center)) / scale,
        "dense.bias": -center / scale,
        "out_proj.weight": weight,
        "out_proj.bias": bias,
    }
    name = f"classification_heads.{model.head}"
    weights = {f"{name}.{k}": torch.tensor(v).float() for k, v in head.items()}
    return weights, (right, len(truth["valid"]))

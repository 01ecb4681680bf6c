"""``--class-weights balanced``: cross-entropy to which classes contribute equally."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fairseq_scl.errors import InputError
from fairseq_scl.input_format import label_names
from fairseq_scl.rows import open_rows

CLASS_WEIGHTS = ("none", "balanced")


def balanced_weights(task: Any, split: str) -> Tensor:
    """Return w_c = N / (C·N_c) for N training examples, N_c of them in class c of C.

    The average weight of the training examples is 1, so the learning rate keeps its
    scale. scikit-learn's ``class_weight="balanced"`` is the same (King and Zeng, 2001).

    Args:
        task: the task.
        split: name of the training set in its data folder.

    Returns:
        ``(C,)`` float32, in the order of the class ids.

    Raises:
        InputError: a class does not occur in the training set; names it.
    """
    dictionary = task.label_dictionary
    names = label_names(dictionary.symbols)
    path = Path(task.cfg.data, "label", split)
    rows = open_rows(path, len(dictionary))
    ids = [int(rows[n][0]) - dictionary.nspecial for n in range(len(rows))]
    counts = torch.bincount(torch.tensor(ids), minlength=len(names))[: len(names)]
    if not counts.all():
        missing = names[int(counts.argmin())]
        raise InputError(
            f"--class-weights is 'balanced', but {path} has no example of {missing!r}: "
            "remove the class, or leave out the flag"
        )
    return counts.sum() / (len(names) * counts)


def weighted_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Return Σ_i w_{y_i}·CE_i, a scalar in float32.

    Args:
        logits: ``(N, C)``.
        labels: ``(N,)`` int64 class ids.
        weights: ``(C,)`` float32.
    """
    weights = weights.to(logits.device)
    return F.cross_entropy(logits.float(), labels, weights, reduction="sum")

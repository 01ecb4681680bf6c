"""Exact counts and finite losses of a validation, for any criterion."""

import json
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from fairseq.logging import metrics
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fairseq_scl.errors import InputError
from fairseq_scl.input_format import label_names

# fairseq does not print keys that begin with an underscore.
ANSWERS = "_answers_"
CROSS_ENTROPY = "_cross_entropy"


class ClassNumbers:
    """Replaces a criterion's label dictionary with one whose names are numbers.

    For ``--report-mcc`` and ``--report-acc-and-f1`` stock fairseq parses label names as
    integers. Labels named 0 and 1 are kept; any other names are replaced by the class
    ids, so that F1 is that of class 1.
    """

    nspecial = 0

    def __init__(self, names: list[str]) -> None:
        self.numbers = list(map(str, range(len(names))))
        if set(names) == {"0", "1"}:
            self.numbers = names

    def string(self, classes: Tensor) -> str:
        """Return the numbers of class ids, ``(N,)`` int64, separated by spaces."""
        return " ".join(self.numbers[c] for c in classes.tolist())


def number_classes(criterion: Any, label_symbols: list[str]) -> None:
    """Make a criterion report MCC and F1 whatever the labels' names.

    Raises:
        InputError: F1 is requested, but there are not exactly two classes.
    """
    names = label_names(label_symbols)
    if getattr(criterion, "report_acc_and_f1", False) and len(names) != 2:
        raise InputError(
            f"--report-acc-and-f1 needs two classes, but the data has {len(names)}"
        )
    if hasattr(criterion, "label_dict"):
        criterion.label_dict = ClassNumbers(names)


@contextmanager
def counted_answers(
    model: Any, head: str, target: Tensor, log: dict[str, Any]
) -> Iterator[None]:
    """Within the block, count how often a head predicts each class.

    Args:
        model: the model that is called in the block, bare or wrapped.
        head: name of its classification head.
        target: ``(N, 1)`` or ``(N,)``, the class ids of the batch.
        log: gets ``_answers_0`` and so on, int64 scalars, and the float32 sum of the
            cross-entropy from the latest call on the whole batch.
    """
    heads = getattr(model, "classification_heads", {})
    if head not in heads:
        yield
        return

    def count(_: nn.Module, __: Any, logits: Tensor) -> None:
        found = torch.bincount(logits.argmax(-1).flatten(), minlength=logits.shape[-1])
        for number, answers in enumerate(found):
            log[f"{ANSWERS}{number}"] = log.get(f"{ANSWERS}{number}", 0) + answers
        if len(logits) == target.numel() and not target.is_floating_point():
            labels = target.view(-1)
            total = cross_entropy(logits.detach().float(), labels, reduction="sum")
            log[CROSS_ENTROPY] = total

    handle = heads[head].register_forward_hook(count)
    try:
        yield
    finally:
        handle.remove()


def log_counts(logs: list[dict[str, Any]], counted: Mapping[str, Any]) -> None:
    """Log exact counts and cross-entropy, unless the criterion has ``counted`` them."""
    if "n_correct" not in counted and any("ncorrect" in log for log in logs):
        metrics.log_scalar_sum("n_correct", sum(log.get("ncorrect", 0) for log in logs))
        total = sum(log.get("nsentences", 0) for log in logs)
        metrics.log_scalar_sum("n_total", total)
    if "ce_loss" not in counted and any(CROSS_ENTROPY in log for log in logs):
        total = sum(log.get("nsentences", 0) for log in logs)
        mean = sum(log.get(CROSS_ENTROPY, 0) for log in logs) / total
        metrics.log_scalar("ce_loss", mean, total, round=4)
    for name in {name for log in logs for name in log if name.startswith(ANSWERS)}:
        metrics.log_scalar_sum(name, sum(log.get(name, 0) for log in logs))


def answers_of(logged: Mapping[str, Any]) -> list[int]:
    """Return how often each class was predicted in a validation; empty if unknown."""
    names = [name for name in logged if name.startswith(ANSWERS)]
    names.sort(key=lambda name: int(name.removeprefix(ANSWERS)))
    answers = [int(logged[name].sum) for name in names]
    # The sum differs if a criterion calls the head more than once.
    complete = bool(answers) and sum(answers) == logged["n_total"].sum
    return answers if complete else []


def check_validation(logged: Mapping[str, Any], subset: str, update: int) -> None:
    """Refuse a validation with a loss that is not finite.

    Raises:
        InputError: names the loss, its value, the subset and the update.
    """
    for name, meter in logged.items():
        if name == "loss" or name.endswith("_loss"):
            value = float(meter.avg)
            if not math.isfinite(value):
                raise InputError(
                    f"{name} of {subset} is {value} after {update} updates: the model "
                    "diverged; lower --lr, or omit --fp16 if it is given"
                )


def check_divergence(update: int) -> None:
    """Stop training when fairseq repeats a step to find the source of a NaN.

    Raises:
        InputError: this is the repeated step; quotes fairseq's error.
    """
    seen = sys.exc_info()[1]
    # fairseq raises the same error where workers disagree, which is not divergence.
    if isinstance(seen, FloatingPointError) and "workers" not in str(seen):
        reason = str(seen).splitlines()[0].rstrip(".")
        raise InputError(
            f"the loss or its gradient is not finite after {update} updates "
            f"({reason}): the model diverged; lower --lr, or omit --fp16 if it is given"
        )


def append_metrics(path: str, logged: Mapping[str, Any], **more: Any) -> None:
    """Append a line of exact counts and unrounded losses to ``--metrics-file``.

    With an empty path, nothing is written. Without meters or other entries, the file is
    only created if missing, which shows whether it can be written.

    Raises:
        InputError: the file cannot be written.
    """
    if not path:
        return
    line = {
        key: _number(meter.sum if key.startswith("n_") else meter.avg)
        for key, meter in logged.items()
        if key.startswith(("n_", "ce_", "scl_"))
        or (key.endswith("_loss") and key != "nll_loss")
    } | more
    try:
        with open(path, "a", encoding="utf-8") as file:
            if line:
                file.write(json.dumps(line, sort_keys=True) + "\n")
    except OSError as error:
        raise InputError(
            f"--metrics-file: cannot write {path}: {error.strerror}"
        ) from error


def _number(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) else value

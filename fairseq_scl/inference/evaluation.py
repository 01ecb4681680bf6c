"""Evaluate the probabilities of a classifier against the true labels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.metrics import (
    confusion_matrix,
    f1_score,
    matthews_corrcoef,
    precision_recall_fscore_support,
)

from fairseq_scl.data.cut import cut_note
from fairseq_scl.data.texts import Example, check_known_labels
from fairseq_scl.inference.model_folder import LoadedModel
from fairseq_scl.inference.predict import (
    check_outputs,
    check_pair,
    encode,
    logits,
    without_second,
)

BINS = 15
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
MISTAKES = 20


@dataclass(frozen=True)
class ClassScores:
    """Scores of one class; ``None`` for 0/0.

    Attributes:
        label: name of the class.
        examples: number of examples with this label.
        answers: number of examples that were predicted to have it.
        precision: share of the answers that are right.
        recall: share of the examples that were found.
        f1: harmonic mean of precision and recall; 0 if both are 0.
    """

    label: str
    examples: int
    answers: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True)
class Answered:
    """Examples whose largest probability is at least a threshold."""

    threshold: float
    answered: int
    correct: int


@dataclass(frozen=True)
class Mistake:
    """A wrong answer.

    Attributes:
        origin: file and line of the example.
        label: the true label.
        answer: the predicted label.
        probability: probability of the answer.
        sentences: one or two sentences.
    """

    origin: str
    label: str
    answer: str
    probability: float
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Evaluation:
    """How good the answers of a classifier are.

    Attributes:
        examples: number of examples, N.
        correct: number of right answers.
        accuracy: their share.
        accuracy_interval: 95% interval of the accuracy (Wilson).
        macro_f1: mean F1 of the classes that are the label or the answer of an example.
        mcc: Matthews correlation coefficient; 0 if all labels or all answers are the
            same.
        calibration_error: expected calibration error: over 15 equally wide bins of the
            largest probability, the mean of |accuracy - mean probability|, weighted by
            the number of examples (Guo et al., 2017).
        mean_probability: mean of the largest probability; above the accuracy if the
            classifier is overconfident.
        classes: scores of each class.
        confusion: ``confusion[i][j]`` examples of class i were predicted as class j.
        answered: what remains if answers below a threshold are left out.
        mistakes: the wrong answers with the largest probabilities.
    """

    examples: int
    correct: int
    accuracy: float
    accuracy_interval: tuple[float, float]
    macro_f1: float
    mcc: float
    calibration_error: float
    mean_probability: float
    classes: tuple[ClassScores, ...]
    confusion: tuple[tuple[int, ...], ...]
    answered: tuple[Answered, ...]
    mistakes: tuple[Mistake, ...]

    def warnings(self) -> list[str]:
        """Return sentences about labels or answers that are all the same."""
        found = []
        for one in self.classes:
            if one.answers == self.examples:
                found.append(
                    f"the model predicts {one.label!r} for all {self.examples} "
                    "examples: it has learned nothing else"
                )
            if one.examples == self.examples:
                found.append(
                    f"all {self.examples} examples have the label {one.label!r}, so "
                    "only the recall of this class says something about the model"
                )
        return found


def example_logits(
    model: LoadedModel,
    examples: Sequence[Example],
    source: object,
    max_tokens: int = 4096,
    note: Callable[[str], object] = lambda _: None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Compute the logits of labeled examples.

    If texts are longer than the model reads, a sentence about them goes to ``note``.

    Returns:
        logits ``(N, C)`` float32, and the class id of each label ``(N,)`` int64.

    Raises:
        InputError: a label is unknown, only one of examples and model has pairs, or the
            logits are not finite.
    """
    check_pair(model, len(examples[0].sentences) == 2, source)
    check_known_labels(examples, model.labels)
    encoded, cut = encode(model, [example.sentences for example in examples])
    unread, most = without_second(model, encoded), model.max_positions
    if said := cut_note(source, len(encoded), cut, unread, most):
        note(said)
    found = logits(model, encoded, max_tokens)
    check_outputs(model, found)
    ids = {label: number for number, label in enumerate(model.labels)}
    return found.numpy(), np.array([ids[example.label] for example in examples])


def evaluate(
    probabilities: NDArray[np.float32],
    truth: NDArray[np.int64],
    labels: Sequence[str],
    examples: Sequence[Example],
) -> Evaluation:
    """Evaluate class probabilities.

    Args:
        probabilities: ``(N, C)``, rows sum to 1; N is at least 1.
        truth: class ids ``(N,)``.
        labels: names of the C classes.
        examples: the N examples, to show mistakes.
    """
    answers = probabilities.argmax(axis=1)
    largest = probabilities.max(axis=1).astype(np.float64)
    right = answers == truth
    correct, total = int(right.sum()), len(truth)
    interval = binomtest(correct, total).proportion_ci(0.95, method="wilson")
    several = len({*truth.tolist(), *answers.tolist()}) > 1  # else scikit-learn warns
    return Evaluation(
        examples=total,
        correct=correct,
        accuracy=correct / total,
        accuracy_interval=(float(interval.low), float(interval.high)),
        macro_f1=float(f1_score(truth, answers, average="macro", zero_division=0)),
        mcc=float(matthews_corrcoef(truth, answers)) if several else 0.0,
        calibration_error=calibration_error(largest, right),
        mean_probability=float(largest.mean()),
        classes=_class_scores(truth, answers, labels),
        confusion=tuple(
            tuple(map(int, row))
            for row in confusion_matrix(truth, answers, labels=range(len(labels)))
        ),
        answered=tuple(
            Answered(threshold, int(kept.sum()), int(right[kept].sum()))
            for threshold in THRESHOLDS
            for kept in [largest >= threshold]
        ),
        mistakes=tuple(
            Mistake(
                examples[n].origin,
                examples[n].label,
                labels[answers[n]],
                float(largest[n]),
                examples[n].sentences,
            )
            for n in np.argsort(-largest, kind="stable")
            if not right[n]
        )[:MISTAKES],
    )


def calibration_error(
    probabilities: NDArray[np.float64], right: NDArray[np.bool_]
) -> float:
    """Return the expected calibration error, see :class:`Evaluation`.

    Args:
        probabilities: largest probability of each example, ``(N,)``.
        right: whether each answer is right, ``(N,)``.
    """
    bins = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    excess = np.bincount(bins, probabilities - right, minlength=BINS)
    return float(np.abs(excess).sum() / len(right))


def _class_scores(
    truth: NDArray[np.int64], answers: NDArray[np.int64], labels: Sequence[str]
) -> tuple[ClassScores, ...]:
    every = range(len(labels))
    precision, recall, f1, count = precision_recall_fscore_support(
        truth, answers, labels=every, zero_division=np.nan
    )
    answered = np.bincount(answers, minlength=len(labels))
    return tuple(
        ClassScores(
            labels[n],
            int(count[n]),
            int(answered[n]),
            *(None if np.isnan(x[n]) else float(x[n]) for x in (precision, recall, f1)),
        )
        for n in every
    )

"""Measure accuracy and speed of multi-exit models on a split of a data folder."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from fairseq_scl.data.binarize import read_split_labels
from fairseq_scl.inference.data_split import check_vocabulary, read_split_tokens
from fairseq_scl.inference.early_exit import ExitRule, check_exits, early_probabilities
from fairseq_scl.inference.model_folder import LoadedModel, load_classifier

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
NEVER = ExitRule()
# Wall-clock time, or processor time of this process. On a busy machine the wall-clock
# time depends mostly on the other processes.
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True)
class Point:
    """Results of one model at one threshold.

    Attributes:
        threshold: threshold of the largest probability; ``None`` for the top exit only.
        correct: number of correct predictions.
        total: number of examples.
        layers: mean number of layers per example.
        left: number of examples that left at each exit, by layer.
        seconds: median time to label all examples, from token ids to probabilities.
        fastest: the shortest time.
        slowest: the longest time.
    """

    threshold: float | None
    correct: int
    total: int
    layers: float
    left: dict[int, int]
    seconds: float
    fastest: float
    slowest: float

    @property
    def accuracy(self) -> float:
        """Accuracy in percent."""
        return 100 * self.correct / self.total

    @property
    def sentences_per_second(self) -> float:
        """Speed at the median time."""
        return self.total / self.seconds


def measure_exits(
    data: Path,
    models: Mapping[str, Path],
    split: str = "test",
    thresholds: Sequence[float] = THRESHOLDS,
    repeats: int = 5,
    max_tokens: int = 4096,
    device: str = "cpu",
    clock: str = "wall",
    on_done: Callable[[int], object] = lambda _: None,
) -> dict[str, list[Point]]:
    """Label a split with each model at each threshold, several times.

    Each round runs all models and thresholds in turn, so that a temporary slowdown of
    the machine affects all of them. A warm-up, which is not counted, precedes the
    ``repeats`` rounds. The deepest exit is always measured, too.

    ``clock`` is one of :data:`CLOCKS`. ``on_done`` is called with 1 after each model of
    each round, including the warm-up.

    Returns:
        the points of each model, in the order of ``thresholds`` followed by the deepest
        exit.

    Raises:
        InputError: a folder is invalid, a model has only one exit, data and model have
            different vocabularies, or a threshold is out of its range.
    """
    rules = [*(ExitRule(threshold) for threshold in thresholds), NEVER]
    labels = read_split_labels(data, split)
    cases: dict[str, tuple[LoadedModel, list[Tensor]]] = {}
    for name, folder in models.items():
        classifier = load_classifier(folder, device)
        for rule in rules:
            check_exits(classifier, rule, folder)
        check_vocabulary(data, folder)
        cases[name] = classifier, read_split_tokens(data, split, classifier)
    seconds: dict[tuple[str, ExitRule], list[float]] = {}
    answers = {}
    for number in range(1 + repeats):
        for name, case in cases.items():
            for rule in rules:
                start = CLOCKS[clock]()
                answers[name, rule] = early_probabilities(*case, rule, max_tokens)
                if device.startswith("cuda"):
                    torch.cuda.synchronize()
                taken = CLOCKS[clock]() - start
                if number:
                    seconds.setdefault((name, rule), []).append(taken)
            on_done(1)
    return {
        name: [
            _point(rule, classifier, labels, answers[name, rule], seconds[name, rule])
            for rule in rules
        ]
        for name, (classifier, _) in cases.items()
    }


def _point(
    rule: ExitRule,
    classifier: LoadedModel,
    labels: Sequence[str],
    answer: tuple[Tensor, Tensor],
    seconds: Sequence[float],
) -> Point:
    probabilities, layers = answer
    predicted = [classifier.labels[best] for best in probabilities.argmax(dim=1)]
    pairs = zip(predicted, labels, strict=True)
    left = {layer: int((layers == layer).sum()) for layer in classifier.exits}
    return Point(
        threshold=rule.threshold,
        correct=sum(found == label for found, label in pairs),
        total=len(labels),
        layers=float(layers.double().mean()),
        left=left,
        seconds=median(seconds),
        fastest=min(seconds),
        slowest=max(seconds),
    )

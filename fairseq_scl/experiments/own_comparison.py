"""Objectives compared on repeated samples of a user's own examples."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairseq_scl.data.binarize import binarize
from fairseq_scl.data.folders import DATA, folders_then_rename
from fairseq_scl.data.splits import stratified_sample, stratified_split
from fairseq_scl.data.texts import Example
from fairseq_scl.errors import InputError
from fairseq_scl.experiments.command import Run
from fairseq_scl.experiments.frozen import Known, probed_before
from fairseq_scl.experiments.loss_grid import LEARNING_RATE
from fairseq_scl.experiments.own_training import (
    FEW_SHOT_RECIPE,
    OBJECTIVES,
    objective_point,
)
from fairseq_scl.experiments.records import Validation
from fairseq_scl.experiments.selection import Outcome
from fairseq_scl.experiments.tables import PROTOCOL, Table, parse_table

TASK = "own"
TEST_SHARE, VALID_SHARE, MOST_HELD_OUT = 0.3, 0.2, 500
SAMPLE_SHARE = 0.8  # of the examples that are left


@dataclass(frozen=True)
class Parts:
    """Examples in parts: training samples of ``size`` are drawn from the ``pool``."""

    pool: Sequence[Example]
    valid: Sequence[Example]
    test: Sequence[Example]
    size: int


def divide(examples: Sequence[Example], size: int | None, seed: int) -> Parts:
    """Hold out test and validation examples, each with the classes' shares.

    30% are for test and 20% for validation, at most 500 each.

    Args:
        examples: examples with different texts.
        size: examples per training sample; by default 80% of those left.
        seed: the same seed draws the same examples.

    Raises:
        InputError: a class is too rare to be in each part, or the size is larger than
            what is left or too small for each class.
    """
    shares = (TEST_SHARE, VALID_SHARE)
    sizes = [min(MOST_HELD_OUT, round(s * len(examples))) for s in shares]
    counts = Counter(example.label for example in examples)
    rarest = min(counts, key=lambda label: counts[label])
    too_rare = InputError(
        f"the class {rarest!r} has {counts[rarest]} of {len(examples)} texts, too few "
        "to be in test, validation and training: label more, or merge classes"
    )
    try:
        test, valid = stratified_split([e.label for e in examples], sizes, seed)
    except InputError:
        raise too_rare from None
    held_out = {*test, *valid}
    pool = [e for number, e in enumerate(examples) if number not in held_out]
    if len({e.label for e in pool}) < len(counts):
        raise too_rare
    if size is not None and not 1 <= size <= len(pool):
        raise InputError(
            f"--size is {size}: it must be from 1 to {len(pool)}, the examples that "
            f"{len(test)} for test and {len(valid)} for validation leave"
        )
    size = size or round(SAMPLE_SHARE * len(pool))
    try:
        stratified_sample([e.label for e in pool], size, 0)
    except InputError as error:
        raise InputError(f"--size is {size}: {error}") from None
    return Parts(pool, [examples[n] for n in valid], [examples[n] for n in test], size)


def write_samples(
    folders: Mapping[int, Path],
    parts: Parts,
    encoder: Path,
    inputs: Sequence[Path] = (),
    check: Callable[[Mapping[int, Path]], object] = lambda _: None,
) -> None:
    """Draw training samples and write the data folder of each.

    Args:
        folders: number of each sample, which is also its seed, to its data folder; all
            are in one parent folder.
        parts: from :func:`divide`.
        encoder: an encoder folder.
        inputs: files of the examples, which must not be overwritten.
        check: called with the new data folders by number before they replace any
            existing ones; if it raises, those are left unchanged.

    Raises:
        InputError: as ``binarize``.
    """
    labels = [example.label for example in parts.pool]
    paths = list(folders.values())
    with folders_then_rename(paths, DATA, [encoder, *inputs]) as places:
        new = dict(zip(folders, places, strict=True))
        for number, place in new.items():
            drawn = stratified_sample(labels, parts.size, number)
            train = [parts.pool[n] for n in drawn]
            splits = {"train": train, "valid": parts.valid, "test": parts.test}
            binarize(splits, encoder, place)
        check(new)


def own_table(
    name: str,
    objectives: Sequence[str],
    size: int,
    samples: int,
    classes: int,
    batch_size: int,
    few_shot_rate: float,
    class_weights: str | None = None,
    **settings: Any,
) -> Table:
    """Return the table of the comparison.

    ``name`` is that of the file, for the caption. The first of the ``objectives`` is
    the baseline; ``classes`` is the number of labels, ``few_shot_rate`` the learning
    rate of the recipe. Further ``settings`` are keys of the table's ``training``, with
    ``head_pooling``.
    """
    losses = {}
    pooling = settings["head_pooling"]
    for objective in objectives:
        point = objective_point(objective, pooling, classes, class_weights)
        if objective == FEW_SHOT_RECIPE:
            losses[FEW_SHOT_RECIPE] = {**point, LEARNING_RATE: (few_shot_rate,)}
        else:
            losses[OBJECTIVES[objective][1]] = point
    content = {
        "protocol": PROTOCOL,
        "caption": f"{name}, test accuracy in percent",
        "selection": "few-shot",
        "repetitions": samples,
        "tasks": [TASK],
        "sizes": [size],
        "batch_sizes": [batch_size],
        "losses": losses,
        "training": {**settings, "batching": "reshuffled"},
    }
    return parse_table("comparison", content, name)


def frozen_outcomes(runs: Sequence[Run]) -> list[Outcome]:
    """Fit a logistic regression on frozen features of each sample.

    The runs, of which some may have the same sample, have the same encoder and read
    texts and weight classes alike; the regression follows them.
    """
    found = []
    known: Known = {}
    for number, run in sorted({run.seed: run for run in runs}.items()):
        probe = probed_before(run, known)
        valid = Validation(0, probe.valid_correct, probe.valid_total, 0.0)
        test = Validation(0, probe.test_correct, probe.test_total, 0.0)
        found.append(Outcome(number, valid, test))
    return found

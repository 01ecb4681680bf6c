"""Objectives compared on repeated samples of a user's own examples."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairseq_scl.data.binarise import binarise
from fairseq_scl.data.splits import stratified_sample, stratified_split
from fairseq_scl.data.texts import Example
from fairseq_scl.errors import InputError
from fairseq_scl.experiments.frozen import Known, probed
from fairseq_scl.experiments.own_training import OBJECTIVES, objective_point
from fairseq_scl.experiments.records import Validation
from fairseq_scl.experiments.selection import Outcome
from fairseq_scl.experiments.tables import PROTOCOL, Table, parse_table

TASK = "own"
TEST_SHARE, VALID_SHARE, MOST_HELD_OUT = 0.3, 0.2, 500
SAMPLE_SHARE = 0.8  # of the examples that are left


@dataclass(frozen=True)
class Parts:
    """A table of examples in parts.

    Attributes:
        pool: the examples that training samples are drawn from.
        valid: the validation examples of all samples.
        test: the test examples of all samples.
        size: number of examples per training sample.
    """

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


def prepare_own_samples(
    folder: Path, parts: Parts, samples: int, encoder: Path, file: Path
) -> list[Path]:
    """Draw training samples and write the data folder of each.

    Args:
        folder: gets ``own/n80-sample0`` and so on.
        parts: the examples.
        samples: number of samples.
        encoder: an encoder folder.
        file: the file of the examples, which is not to be overwritten.

    Raises:
        InputError: as ``binarise``.
    """
    labels = [example.label for example in parts.pool]
    folders = []
    for number in range(samples):
        drawn = stratified_sample(labels, parts.size, number)
        train = [parts.pool[n] for n in drawn]
        folders.append(folder / TASK / f"n{parts.size}-sample{number}")
        splits = {"train": train, "valid": parts.valid, "test": parts.test}
        binarise(splits, encoder, folders[-1], inputs=[file])
    return folders


def own_table(
    name: str,
    objectives: Sequence[str],
    size: int,
    samples: int,
    batch_size: int,
    class_weights: str | None = None,
    **settings: Any,
) -> Table:
    """Return the table of the comparison.

    Args:
        name: name of the file, for the caption.
        objectives: of :data:`OBJECTIVES`; the first is the baseline.
        size: number of examples per training sample.
        samples: number of samples.
        batch_size: examples per batch.
        class_weights: ``balanced`` or ``None``, for all objectives.
        settings: keys of the table's ``training``, with ``head_pooling``.
    """
    pooling = settings["head_pooling"]
    losses = {
        OBJECTIVES[o][1]: objective_point(o, pooling, class_weights) for o in objectives
    }
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


def frozen_outcomes(
    encoder: Path, folders: Sequence[Path], device: str
) -> list[Outcome]:
    """Fit a logistic regression on frozen features of each sample."""
    found = []
    known: Known = {}
    for number, folder in enumerate(folders):
        probe = probed(encoder, folder, device, known)
        valid = Validation(0, probe.valid_correct, probe.valid_total, 0.0)
        test = Validation(0, probe.test_correct, probe.test_total, 0.0)
        found.append(Outcome(number, valid, test))
    return found

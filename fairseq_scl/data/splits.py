"""Stratified splits and few-shot samples, section 4.1 of Gunel et al. (2021)."""

from collections.abc import Sequence

import numpy as np

from fairseq_scl.errors import InputError


def stratified_sample(labels: Sequence[str], size: int, seed: int) -> list[int]:
    """Draw a sample that has the label distribution of the whole.

    "we sample 10 different training set samples [...] taking the label distribution of
    the original training set into account" (section 4.1). Each class gets its exact
    share of ``size`` rounded down; what is left goes to the largest remainders, ties to
    the class that sorts first.

    Args:
        labels: the label of each example, N of them.
        size: number of examples to draw, without replacement.
        seed: the same seed draws the same examples.

    Returns:
        ``size`` indices in rising order.

    Raises:
        InputError: a size below 1 or above N, or so small that a class gets no example.
    """
    return stratified_split(labels, [size], seed)[0]


def stratified_split(
    labels: Sequence[str], sizes: Sequence[int], seed: int
) -> list[list[int]]:
    """Draw disjoint samples, each with the label distribution of the whole.

    Args:
        labels: the label of each example, N of them.
        sizes: the size of each sample.
        seed: the same seed draws the same samples.

    Returns:
        one list of indices, in rising order, for each size.

    Raises:
        InputError: as :func:`stratified_sample`, or sizes that add up to more than N.
    """
    for size in sizes:
        if size < 1:
            raise InputError(
                f"a sample of {size} examples: the size must be at least 1"
            )
    if sum(sizes) > len(labels):
        raise InputError(
            f"samples of {' + '.join(map(str, sizes))} examples were asked for, but "
            f"there are only {len(labels)}"
        )
    classes, class_of = np.unique(np.asarray(labels), return_inverse=True)
    random = np.random.default_rng(seed)
    waiting = [random.permutation(np.flatnonzero(class_of == c)) for c in _ids(classes)]
    counts = np.array([len(members) for members in waiting])
    samples = []
    for size in sizes:
        drawn = []
        left = np.array([len(members) for members in waiting])
        for c, share in enumerate(_shares(counts, size, left)):
            if share == 0:
                raise InputError(
                    f"a sample of {size} examples has none of the class "
                    f"{str(classes[c])!r} ({counts[c]} of {len(labels)}): draw more"
                )
            drawn.append(waiting[c][:share])
            waiting[c] = waiting[c][share:]
        samples.append(sorted(int(i) for i in np.concatenate(drawn)))
    return samples


def _shares(counts: np.ndarray, size: int, left: np.ndarray) -> np.ndarray:
    """Split ``size`` over classes in proportion to ``counts``, by largest remainder."""
    # In whole numbers: remainders that are equal must tie, and floats would not.
    whole, remainders = np.divmod(size * counts, counts.sum())
    shares = np.minimum(whole, left)
    order = np.argsort(-remainders, kind="stable")
    while shares.sum() < size:
        for c in order:
            if shares.sum() < size and shares[c] < left[c]:
                shares[c] += 1
    return shares


def _ids(classes: np.ndarray) -> range:
    return range(len(classes))

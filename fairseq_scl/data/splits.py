"""Stratified splits and few-shot samples, section 4.1 of Gunel et al. (2021)."""

from collections.abc import Mapping, Sequence

import numpy as np

from fairseq_scl.errors import InputError


def stratified_sample(labels: Sequence[str], size: int, seed: int) -> list[int]:
    """Draw a sample with the label distribution of the whole.

    "we sample 10 different training set samples [...] taking the label distribution of
    the original training set into account" (section 4.1). Each class gets its exact
    share of ``size`` rounded down; the rest goes to the largest remainders, and ties to
    the class that sorts first.

    Args:
        labels: the label of each example, N of them.
        size: number of examples to draw, without replacement.
        seed: the same seed draws the same examples.

    Returns:
        ``size`` indices in ascending order.

    Raises:
        InputError: the size is below 1 or above N, or too small to draw an example of
            each class.
    """
    return stratified_split(labels, [size], seed)[0]


def stratified_split(
    labels: Sequence[str], sizes: Sequence[int], seed: int
) -> list[list[int]]:
    """Draw disjoint samples, each as :func:`stratified_sample`.

    Returns:
        one list of indices per size, in ascending order.

    Raises:
        InputError: as :func:`stratified_sample`, or the sizes add up to more than N.
    """
    classes, class_of = np.unique(np.asarray(labels), return_inverse=True)
    names = [str(name) for name in classes]
    members = {n: np.flatnonzero(class_of == c) for c, n in enumerate(names)}
    counts = {name: len(indices) for name, indices in members.items()}
    return [
        sorted(int(i) for name, r in ranks.items() for i in members[name][r])
        for ranks in stratified_ranks(counts, sizes, seed)
    ]


def stratified_ranks(
    counts: Mapping[str, int],
    sizes: Sequence[int],
    seed: int | Sequence[int],
    balanced: bool = False,
) -> list[dict[str, np.ndarray]]:
    """Draw disjoint samples of examples, identified by their rank within their class.

    This is the rule of :func:`stratified_split` for data that is not in memory: rank 0
    of a class is its first example in the data.

    Args:
        counts: number of examples of each class.
        sizes: the size of each sample.
        seed: one number or several; the same seed draws the same samples.
        balanced: whether all classes have the same share of a sample; otherwise they
            have their share of the whole.

    Returns:
        for each size, the ranks drawn from each class, int64 `(share,)`, unordered.

    Raises:
        InputError: as :func:`stratified_split`, or the size of a balanced sample is not
            a multiple of the number of classes or needs more examples of a class than
            there are.
    """
    total = sum(counts.values())
    for size in sizes:
        if size < 1:
            raise InputError(
                f"a sample of {size} examples: the size must be at least 1"
            )
        if balanced and size % len(counts):
            raise InputError(
                f"a balanced sample of {size} examples is not possible: {size} is not "
                f"a multiple of the number of classes, {len(counts)}"
            )
    if sum(sizes) > total:
        raise InputError(
            f"samples of {' + '.join(map(str, sizes))} examples were asked for, but "
            f"there are only {total}"
        )
    random = np.random.default_rng(seed)
    waiting = {name: random.permutation(counts[name]) for name in sorted(counts)}
    weights = np.array([1 if balanced else counts[name] for name in waiting])
    samples = []
    for size in sizes:
        left = np.array([len(ranks) for ranks in waiting.values()])
        if balanced and (short := left < size // len(waiting)).any():
            name = list(waiting)[int(np.argmax(short))]
            raise InputError(
                f"a balanced sample of {size} examples needs {size // len(waiting)} of "
                f"the class {name!r}, but there are only {left[np.argmax(short)]}"
            )
        sample = {}
        shares = _shares(weights, size, left)
        for name, share in zip(list(waiting), shares, strict=True):
            if share == 0:
                raise InputError(
                    f"a sample of {size} examples has none of the class {name!r} "
                    f"({counts[name]} of {sum(counts.values())}): draw more"
                )
            # A copy, or the sample would keep the whole permutation in memory.
            sample[name] = waiting[name][:share].copy()
            waiting[name] = waiting[name][share:]
        samples.append(sample)
    return samples


def test_and_valid(
    counts: Mapping[str, int], sizes: tuple[int, int], seed: int, whole: bool
) -> list[dict[str, np.ndarray]]:
    """Draw the test and validation sets of a table with :func:`stratified_ranks`.

    Both ``sizes`` and the result have the test set first. Unless the two sets may use
    the ``whole`` table, examples of each class must remain for training.

    Raises:
        InputError: the table does not allow these sizes; the message names the flags
            and possible sizes, if any.
    """
    try:
        return _with_some_left(counts, sizes, seed, whole)
    except InputError as error:
        usual = "" if whole else " (500 each by default)"
        problem = (
            f"--size-test and --size-valid{usual} cannot be {sizes[0]} and {sizes[1]}: "
            f"{error}"
        )
    total = sum(counts.values())
    for size in (total // 5, total // 4, total // 3, total // 2):
        try:
            _with_some_left(counts, (size, size), seed, whole)
        except InputError:
            continue
        raise InputError(
            f"{problem}; use {size} and {size}, or provide your own splits with --text"
        )
    raise InputError(f"{problem}; provide your own splits with --text")


def _with_some_left(
    counts: Mapping[str, int], sizes: tuple[int, int], seed: int, whole: bool
) -> list[dict[str, np.ndarray]]:
    drawn = stratified_ranks(counts, sizes, seed)
    for name, count in counts.items():
        if not whole and sum(len(ranks[name]) for ranks in drawn) == count:
            raise InputError(
                f"they use all {count} rows of the class {name!r}, with none left for "
                "training"
            )
    return drawn


def _shares(counts: np.ndarray, size: int, left: np.ndarray) -> np.ndarray:
    """Split ``size`` over classes in proportion to ``counts``, by largest remainder."""
    # Integer arithmetic, so that equal remainders are exactly equal.
    whole, remainders = np.divmod(size * counts, counts.sum())
    shares = np.minimum(whole, left)
    order = np.argsort(-remainders, kind="stable")
    while shares.sum() < size:
        for c in order:
            if shares.sum() < size and shares[c] < left[c]:
                shares[c] += 1
    return shares

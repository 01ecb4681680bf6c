"""Stratified splits and few-shot samples, section 4.1 of Gunel et al. (2021)."""

from collections.abc import Mapping, Sequence

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
    """Draw disjoint samples of examples that are known by their place in their class.

    This is the rule of :func:`stratified_split` for data that is not in memory: rank 0
    of a class is its first example, whatever stands between its examples.

    Args:
        counts: number of examples of each class.
        sizes: the size of each sample.
        seed: one number or several; the same seed draws the same samples.
        balanced: whether each class gets the same share of a sample; otherwise its
            share is that of the whole.

    Returns:
        for each size, the ranks drawn of each class, int64 `(share,)`, in no order.

    Raises:
        InputError: as :func:`stratified_split`; a balanced sample whose size the number
            of classes does not divide, or that has more of a class than there are.
    """
    total = sum(counts.values())
    for size in sizes:
        if size < 1:
            raise InputError(
                f"a sample of {size} examples: the size must be at least 1"
            )
        if balanced and size % len(counts):
            raise InputError(
                f"a balanced sample of {size} examples cannot be: {size} does not "
                f"divide over {len(counts)} classes"
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
                f"the class {name!r}, but there are {left[np.argmax(short)]}"
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
    """Draw the test and the validation set of a table, by :func:`stratified_ranks`.

    Args:
        counts: number of examples of each class.
        sizes: of the test and of the validation set.
        seed: the same seed draws the same examples.
        whole: whether they may be the whole table; otherwise some of each class is left
            to train with.

    Returns:
        the ranks drawn of each class, for the test and for the validation set.

    Raises:
        InputError: sizes that the table does not allow; names the flags and, if there
            are any, sizes that it does.
    """
    try:
        return _with_some_left(counts, sizes, seed, whole)
    except InputError as error:
        usual = "" if whole else " (500 each by default)"
        problem = (
            f"--size-test and --size-valid{usual} cannot be {sizes[0]} and {sizes[1]}, "
            f"as {error}"
        )
    total = sum(counts.values())
    for size in (total // 5, total // 4, total // 3, total // 2):
        try:
            _with_some_left(counts, (size, size), seed, whole)
        except InputError:
            continue
        raise InputError(
            f"{problem}: {size} and {size} can be, or give splits of your own with "
            "--text"
        )
    raise InputError(f"{problem}: give splits of your own with --text")


def _with_some_left(
    counts: Mapping[str, int], sizes: tuple[int, int], seed: int, whole: bool
) -> list[dict[str, np.ndarray]]:
    drawn = stratified_ranks(counts, sizes, seed)
    for name, count in counts.items():
        if not whole and sum(len(ranks[name]) for ranks in drawn) == count:
            raise InputError(
                f"they leave none of the {count} rows of the class {name!r} to train "
                "with"
            )
    return drawn


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

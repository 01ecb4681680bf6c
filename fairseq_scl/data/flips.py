"""Labels that are wrong on purpose, to see how a loss bears it."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np

from fairseq_scl.data.readers import Row
from fairseq_scl.errors import InputError

SUFFIX = "flip"
# Keeps these draws apart from those of the samples, which begin with the same numbers.
STREAM = 71
Flips = Mapping[str, Mapping[int, str]]


def check_share(share: float) -> float:
    """Return a share of labels to flip.

    Raises:
        InputError: it is not from 0 up to, but not, 1, or has more digits than the name
            of its folder.
    """
    if not 0 <= share < 1:
        raise InputError(
            f"--flip-labels is {share:g}: it must be 0 or a share below 1, as 0.1"
        )
    if float(f"{share:g}") != share:
        raise InputError(
            f"--flip-labels is {share!r}: the name of its folder has room for six "
            f"digits, {share:g}"
        )
    return share


def flipped_folder(name: str, share: float) -> str:
    """Return the name of the data folder with flipped labels: ``n100-sample0-flip0.1``.

    With none flipped it is that of the sample.
    """
    return f"{name}-{SUFFIX}{share:g}" if share else name


def draw_flips(
    counts: Mapping[str, int], share: float, seed: Sequence[int]
) -> dict[str, dict[int, str]]:
    """Draw which examples get another label, and which.

    The same share of each class, rounded to the nearest number of examples, halves up;
    the new label is drawn uniformly from the other classes. With one seed, what is
    flipped at 0.1 is flipped at 0.2 too, to the same label.

    Args:
        counts: number of examples of each class, at least two classes.
        share: from 0 up to, but not, 1.
        seed: several numbers; the same ones draw the same flips.

    Returns:
        of each class, new labels by the rank of an example in its class (0 is the first
        of its examples).

    Raises:
        InputError: a share that cannot be, or one class only.
    """
    check_share(share)
    names = sorted(counts)
    if len(names) < 2:
        raise InputError(f"--flip-labels needs two classes, there is only {names[0]!r}")
    # As it is written: 0.35 of 10 is 3.5, which the float of 0.35 does not give.
    exact = Fraction(f"{share:g}")
    flips = {}
    for number, name in enumerate(names):
        random = np.random.default_rng([*seed, STREAM, number])
        order = random.permutation(counts[name])
        draws = random.integers(len(names) - 1, size=counts[name])
        others = [other for other in names if other != name]
        flipped = math.floor(exact * counts[name] + Fraction(1, 2))
        flips[name] = {int(order[i]): others[draws[i]] for i in range(flipped)}
    return flips


class Flipped:
    """Rows of a table, a share of them with another label than theirs."""

    def __init__(self, rows: Iterable[Row], share: float, seed: Sequence[int]) -> None:
        """Take ``rows``, which can be iterated anew; the rest as :func:`draw_flips`."""
        self._rows, self._share, self._seed = rows, share, seed
        self._flips: Flips | None = None
        self._done: list[dict[str, object]] = []

    def __iter__(self) -> Iterator[Row]:
        """Yield line and example; notes what was flipped."""
        if not self._share:
            yield from self._rows
            return
        if self._flips is None:
            counts = Counter(example.label for _, example in self._rows)
            self._flips = draw_flips(counts, self._share, self._seed)
        seen: Counter[str] = Counter()
        done: list[dict[str, object]] = []
        for number, (line, example) in enumerate(self._rows):
            label = example.label
            new = self._flips[label].get(seen[label], label)
            seen[label] += 1
            if new != label:
                done.append({"row": number, "line": line, "was": label, "is": new})
            yield line, replace(example, label=new)
        self._done = done

    def describe(self) -> dict[str, object]:
        """Tell share and rows: number from 0, line in the file, label before and now.

        Nothing where nothing was to be flipped.
        """
        if not self._share:
            return {}
        return {"flipped": {"share": self._share, "rows": self._done}}

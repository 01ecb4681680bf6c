"""Label noise: flip a fraction of the training labels."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np

from fairseq_scl.data.readers import Row
from fairseq_scl.errors import InputError

SUFFIX = "flip"
# Added to the seed, because the samples use the same first numbers.
STREAM = 71
Flips = Mapping[str, Mapping[int, str]]


def check_share(share: float) -> None:
    """Check the share of labels to flip.

    Raises:
        InputError: it is not in [0, 1), or has more digits than fit into the name of
            its folder.
    """
    if not 0 <= share < 1:
        raise InputError(
            f"--flip-labels is {share:g}: it must be 0 or a share below 1, such as 0.1"
        )
    if float(f"{share:g}") != share:
        raise InputError(
            f"--flip-labels is {share!r}: use at most six digits, as in the name of "
            f"its folder, such as {share:g}"
        )


def flipped_folder(name: str, share: float) -> str:
    """Return the name of a data folder with flipped labels: ``n100-sample0-flip0.1``.

    A share of 0 gives the name of the sample itself.
    """
    return f"{name}-{SUFFIX}{share:g}" if share else name


def draw_flips(
    counts: Mapping[str, int], share: float, seed: Sequence[int]
) -> dict[str, dict[int, str]]:
    """Draw which examples get a wrong label, and their new labels.

    The same share is drawn from each class, rounded to the nearest number of examples
    (halves up). New labels are drawn uniformly from the other classes. For a fixed
    seed, the flips at 0.1 are a subset of the flips at 0.2.

    Args:
        counts: number of examples of each class, for at least two classes.
        share: in [0, 1).
        seed: several numbers; the same numbers draw the same flips.

    Returns:
        for each class, the new labels by the rank of an example within its class,
        counted from 0.

    Raises:
        InputError: the share is out of range, or there is only one class.
    """
    check_share(share)
    names = sorted(counts)
    if len(names) < 2:
        raise InputError(
            f"--flip-labels needs two classes, but there is only {names[0]!r}"
        )
    # Exact decimal arithmetic: 0.35 of 10 is 3.5, but not for the float 0.35.
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
    """Rows of a table with a share of their labels flipped."""

    def __init__(self, rows: Iterable[Row], share: float, seed: Sequence[int]) -> None:
        """Take ``rows``, which can be iterated repeatedly; see :func:`draw_flips`."""
        self._rows, self._share, self._seed = rows, share, seed
        self._flips: Flips | None = None
        self._done: list[dict[str, object]] = []

    def __iter__(self) -> Iterator[Row]:
        """Yield line and example, and record the flips."""
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
        """Return the share and the flipped rows, or an empty record for a share of 0.

        Each row has its number from 0, its line in the file, and its label before and
        after.
        """
        if not self._share:
            return {}
        return {"flipped": {"share": self._share, "rows": self._done}}

"""Variants of a sample that a table compares: flipped labels, back-translations."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fairseq_scl.data.flips import SUFFIX
from fairseq_scl.errors import InputError

ORIGINAL = "original"


@dataclass(frozen=True)
class Variant:
    """One way in which data folders are made of that of a sample.

    Attributes:
        key: of a cell and of ``--only``.
        setting: of a table, whose values have a column (or a row) each.
        suffix: of a data folder, with the value after it.
        plain: the value that stands for the sample as it was drawn.
        below: every other value is above 0 and below this.
        allowed: the same in words.
    """

    key: str
    setting: str
    suffix: str
    plain: float | str
    below: float
    allowed: str

    def parse(self, values: Sequence[Any], where: str) -> tuple[float | str, ...]:
        """Read values; the names of runs and folders must tell them apart.

        Raises:
            InputError: names file, setting, value and what is allowed.
        """
        found: list[float | str] = []
        for value in values:
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if value == self.plain and not isinstance(value, bool):
                found.append(self.plain)
            elif number and 0 < value < self.below:
                found.append(float(value))
            else:
                raise InputError(
                    f"{where}: {self.setting} is {value!r}, it must be {self.allowed}"
                )
        if len(set(map(_short, found))) < len(found):
            raise InputError(
                f"{where}: {self.setting} is {list(values)}, each must be there once"
            )
        return tuple(found)

    def name(self, value: float | str) -> str:
        """Return ``bt0.3``, ``flip0.1``, or ``original``."""
        return value if isinstance(value, str) else f"{self.suffix}{value:g}"


FLIPPED = Variant("flipped", "flipped", SUFFIX, 0.0, 1, "from 0 up to 1")
AUGMENTED = Variant("temperature", "temperatures", "bt", ORIGINAL, math.inf, "above 0")
# As in the names of data folders: back-translations are made of a sample as it is.
VARIANTS = (FLIPPED, AUGMENTED)


def variants_of(table: Any) -> Iterator[tuple[Variant, tuple[Any, ...]]]:
    """Yield the variants that a table compares, and their values."""
    for variant in VARIANTS:
        if values := getattr(table, variant.setting):
            yield variant, values


def suffixes(cell: Mapping[str, Any]) -> str:
    """Return what follows the name of a sample in that of a run's data folder."""
    parts = [
        f"-{variant.name(cell[variant.key])}"
        for variant in VARIANTS
        if cell.get(variant.key, variant.plain) != variant.plain
    ]
    return "".join(parts)


def _short(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"

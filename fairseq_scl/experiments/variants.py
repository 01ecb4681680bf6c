"""Variants of a sample that a table compares: flipped labels, back-translations."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fairseq_scl.data.flips import SUFFIX

ORIGINAL = "original"


def in_short_form(value: Any) -> str:
    """Format the value of an option for a name or a table: 0.3, not 0.30."""
    return f"{value:g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Variant:
    """One way in which data folders are made of that of a sample.

    Attributes:
        key: of a cell and of ``--only``.
        setting: of a table, whose values have a column (or a row) each.
        suffix: of a data folder, with the value after it.
        plain: the value that stands for the sample as it was drawn.
    """

    key: str
    setting: str
    suffix: str
    plain: float | str

    def name(self, value: float | str) -> str:
        """Return ``bt0.3``, ``flip0.1``, or ``original``."""
        return value if isinstance(value, str) else f"{self.suffix}{value:g}"


FLIPPED = Variant("flipped", "flipped", SUFFIX, 0.0)
AUGMENTED = Variant("temperature", "temperatures", "bt", ORIGINAL)
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

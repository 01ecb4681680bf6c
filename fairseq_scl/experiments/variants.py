"""Variants of a sample that a table compares: flipped labels, back-translations."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fairseq_scl.data.flips import SUFFIX

ORIGINAL = "original"


def in_short_form(value: Any) -> str:
    """Format an option's value for a name or a table: 0.3, not 0.30."""
    return f"{value:g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Variant:
    """A modification of a sample that has its own data folders.

    Attributes:
        key: its key in a cell and in ``--only``.
        setting: the table's key for its values, each of which has a column or a row.
        suffix: suffix of its data folders, followed by the value.
        plain: the value of the unmodified sample.
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
# In the order of the suffixes of data folders.
VARIANTS = (FLIPPED, AUGMENTED)


def variants_of(table: Any) -> Iterator[tuple[Variant, tuple[Any, ...]]]:
    """Yield the variants that a table compares, with their values."""
    for variant in VARIANTS:
        if values := getattr(table, variant.setting):
            yield variant, values


def suffixes(cell: Mapping[str, Any]) -> str:
    """Return the suffix of a run's data folder after the name of the sample."""
    parts = [
        f"-{variant.name(cell[variant.key])}"
        for variant in VARIANTS
        if cell.get(variant.key, variant.plain) != variant.plain
    ]
    return "".join(parts)

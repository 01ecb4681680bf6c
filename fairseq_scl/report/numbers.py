"""How reports write numbers: means, intervals and p-values."""

import math

from fairseq_scl.experiments.statistics import Summary

NONE = "–"


def mean_and_std(value: Summary | None, mean: str = ".1f", std: str = ".1f") -> str:
    """Format mean ± std, to one digit as the paper; empty where there is none.

    Args:
        value: its std may be NaN, and is left out then.
        mean: format of the mean.
        std: format of the std.
    """
    if value is None:
        return ""
    spread = "" if math.isnan(value.std) else f" ± {value.std:{std}}"
    return f"{value.mean:{mean}}{spread}"


def interval(low: float, high: float) -> str:
    """Format a confidence interval of points."""
    return NONE if math.isnan(low) else f"{low:+.2f} to {high:+.2f}"


def p_value(p: float) -> str:
    """Format a p-value to three digits."""
    if math.isnan(p):
        return NONE
    return f"{p:.3f}" if p >= 0.0005 else "<0.001"

"""Number formats of reports: means, intervals and p-values."""

import math

from fairseq_scl.experiments.statistics import Summary

NONE = "–"


def mean_and_std(value: Summary | None, mean: str = ".1f", std: str = ".1f") -> str:
    """Format mean ± std with one decimal, as in the paper; ``None`` gives ``""``.

    A std of NaN is left out.
    """
    if value is None:
        return ""
    spread = "" if math.isnan(value.std) else f" ± {value.std:{std}}"
    return f"{value.mean:{mean}}{spread}"


def interval(low: float, high: float) -> str:
    """Format a confidence interval in points."""
    return NONE if math.isnan(low) else f"{low:+.2f} to {high:+.2f}"


def p_value(p: float) -> str:
    """Format a p-value with three decimals."""
    if math.isnan(p):
        return NONE
    return f"{p:.3f}" if p >= 0.0005 else "<0.001"

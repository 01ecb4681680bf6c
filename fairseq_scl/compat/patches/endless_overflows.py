"""Fault: with ``--threshold-loss-scale``, fp16 training that diverged never ends.

fairseq ends training where the loss scale falls to ``--min-loss-scale``. The threshold,
which the published GLUE recipe sets, stops the fall before that: every batch overflows
and is skipped, no update is made, and ``--max-update`` is never reached. Present in
every version of fairseq.
"""

from collections.abc import Callable
from typing import Any

from fairseq_scl.compat.wrapping import wrap

MOST_OVERFLOWS = 50  # in a row, at the lowest loss scale


def apply() -> None:
    """End training after many overflows in a row at the threshold."""
    from fairseq.optim.dynamic_loss_scaler import DynamicLossScaler

    wrap(DynamicLossScaler, "check_overflow", _check_overflow)


def _check_overflow(original: Callable[..., None], scaler: Any, norm: Any) -> None:
    lowest, before = scaler.threshold, scaler.loss_scale
    try:
        original(scaler, norm)
    except OverflowError as error:
        seen = getattr(scaler, "overflows_in_a_row", 0)
        is_lowest = lowest is not None and before <= lowest
        scaler.overflows_in_a_row = seen + 1 if is_lowest else 0
        if scaler.overflows_in_a_row < MOST_OVERFLOWS:
            raise
        raise FloatingPointError(
            f"{MOST_OVERFLOWS} overflows in a row at the lowest loss scale, {lowest:g}"
        ) from error
    scaler.overflows_in_a_row = 0

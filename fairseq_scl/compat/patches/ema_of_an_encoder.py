"""Fault: ``--store-ema`` cannot start from a checkpoint without an EMA, an encoder.

fairseq restores the EMA from weights that it has deleted, which ends in a ``KeyError``.
Present in every version of fairseq.
"""

from typing import Any

from fairseq_scl.compat.wrapping import wrap


def apply() -> None:
    """Start the EMA from the model that was restored if the checkpoint has none."""
    from fairseq.trainer import Trainer

    wrap(Trainer, "load_checkpoint", _load_checkpoint)


def _load_checkpoint(original: Any, trainer: Any, *args: Any, **kwargs: Any) -> Any:
    settings = trainer.cfg.ema
    if not settings.store_ema:
        return original(trainer, *args, **kwargs)
    settings.store_ema = False
    try:
        state = original(trainer, *args, **kwargs)
    finally:
        settings.store_ema = True
    ema = trainer.ema  # copies the model when it is first asked for
    if state is not None and "ema" in state:
        ema.restore(state["ema"])
        if settings.ema_fp32:
            ema.build_fp32_params(state.get("ema_fp32_params"))
    return state

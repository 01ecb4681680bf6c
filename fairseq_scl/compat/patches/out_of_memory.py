"""Fault: the Trainer skips batches that do not fit into memory and only logs it.

A model trained on the remaining batches looks like any other result. If no batch fits,
training never ends, and workers wait for each other for half an hour. Present in every
version of fairseq.
"""

from typing import Any

from fairseq_scl.compat.input_errors import exit_on_input_error
from fairseq_scl.compat.wrapping import wrap
from fairseq_scl.errors import InputError

# From CUDA, and from PyTorch's CPU allocator on Linux and on Windows.
SIGNS = ("out of memory", "can't allocate memory", "not enough memory")


def apply() -> None:
    """End training with one sentence when memory runs out."""
    from fairseq.trainer import Trainer

    wrap(Trainer, "_log_oom", _raise)
    for name in ("__init__", "load_checkpoint", "train_step", "valid_step"):
        wrap(Trainer, name, _end)


def _raise(original: Any, trainer: Any, error: Exception) -> None:
    """Replace ``Trainer._log_oom``, which is called before a batch is skipped."""
    raise error


@exit_on_input_error()
def _end(original: Any, trainer: Any, *args: Any, **kwargs: Any) -> Any:
    try:
        return original(trainer, *args, **kwargs)
    except (RuntimeError, MemoryError) as error:
        text = str(error) or "out of memory"
        if not any(sign in text for sign in SIGNS):
            raise
        raise InputError(_sentence(trainer.cfg, text)) from error


def _sentence(cfg: Any, text: str) -> str:
    batch = getattr(cfg.task, "contrastive_batch", None) or cfg.dataset.batch_size
    values = {
        "--batch-size": batch,
        "--max-tokens": cfg.dataset.max_tokens,
        "--chunk": getattr(cfg.task, "chunk", 0) or "off",
        "--max-positions": getattr(cfg.task, "max_positions", None),
    }
    given = ", ".join(f"{k} {v}" for k, v in values.items() if v is not None)
    return (
        f"out of memory with {given}: lower --chunk (in a table --set chunk=N), the "
        "batch, or how many runs share the device (--jobs, --jobs-per-gpu); "
        f"{text.splitlines()[0]}"
    )

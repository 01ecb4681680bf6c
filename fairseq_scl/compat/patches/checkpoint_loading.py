"""Fault: fairseq's loaders run a pickle's code, or fail on PyTorch 2.6 and later.

Covers ``--restore-file``, ``--finetune-from-model``, resuming and ``from_pretrained``,
which all go through ``checkpoint_utils``. May go with a fairseq that loads safely.
"""

import functools
from typing import Any

from fairseq_scl.compat.checkpoints import allow_fairseq_classes, load_error
from fairseq_scl.compat.input_errors import exit_on_input_error
from fairseq_scl.errors import InputError


def apply() -> None:
    """Use the allow-list, and name the file where fairseq refuses one."""
    from fairseq import checkpoint_utils

    original = checkpoint_utils.load_checkpoint_to_cpu
    if getattr(original, "explains", False):
        return
    allow_fairseq_classes()

    @functools.wraps(original)
    def load_checkpoint_to_cpu(path: str, *args: Any, **kwargs: Any) -> Any:
        with exit_on_input_error():
            try:
                state = original(path, *args, **kwargs)
            except Exception as error:  # a damaged pickle can raise nearly anything
                raise InputError(load_error(path, error)) from error
        # Published checkpoints lack the key, and a criterion that learns asks for it.
        state.setdefault("criterion", None)
        return state

    load_checkpoint_to_cpu.explains = True  # type: ignore[attr-defined]
    checkpoint_utils.load_checkpoint_to_cpu = load_checkpoint_to_cpu

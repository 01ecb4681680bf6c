"""Fault: fairseq's loaders run code from pickles and from strings in settings.

They also fail on PyTorch 2.6 and later. The patch covers ``--restore-file``,
``--path``, ``--finetune-from-model``, resuming and ``from_pretrained``, which all use
``checkpoint_utils``. Can be dropped with a fairseq that loads safely.
"""

import argparse
from typing import Any

from fairseq_scl.compat.checkpoints import load_checkpoint, load_error
from fairseq_scl.compat.input_errors import exit_on_input_error
from fairseq_scl.compat.wrapping import wrap
from fairseq_scl.errors import InputError


def apply() -> None:
    """Make fairseq load every checkpoint through :func:`load_checkpoint`."""
    from fairseq import checkpoint_utils

    wrap(checkpoint_utils, "load_checkpoint_to_cpu", _load_checkpoint_to_cpu)


@exit_on_input_error()
def _load_checkpoint_to_cpu(
    _: Any,
    path: str,
    arg_overrides: dict[str, Any] | None = None,
    load_on_all_ranks: bool = False,
) -> Any:
    from fairseq import checkpoint_utils
    from fairseq.file_io import PathManager

    state = load_checkpoint(PathManager.get_local_path(path))
    try:
        if state.get("cfg") is not None:
            state["cfg"] = _omegaconf(state["cfg"], arg_overrides or {})
        state = checkpoint_utils._upgrade_state_dict(state)
    except Exception as error:  # an incomplete one can raise almost anything
        raise InputError(load_error(path, error)) from None
    # Published checkpoints lack this key, which a criterion with parameters needs.
    state.setdefault("criterion", None)
    return state


def _omegaconf(cfg: dict[str, Any], overrides: dict[str, Any]) -> Any:
    """Return settings in fairseq's in-memory form, with the caller's overrides."""
    from fairseq.dataclass.utils import (
        omegaconf_no_object_check,
        overwrite_args_by_name,
    )
    from omegaconf import OmegaConf

    legacy = {k: v for k, v in cfg.items() if isinstance(v, argparse.Namespace)}
    made = OmegaConf.create({**cfg, **dict.fromkeys(legacy)})
    with omegaconf_no_object_check():
        for section, settings in legacy.items():
            made[section] = settings
    overwrite_args_by_name(made, overrides)
    return made

"""Fault: ``fairseq-train --bf16`` runs on TPUs only.

The command line turns ``--bf16`` into ``--tpu``; the trainer itself handles bfloat16 on
GPUs and CPUs, as ``fairseq-hydra-train`` shows. Present in every version of fairseq.
"""

import argparse
import sys
from typing import Any

from fairseq_scl.compat.input_errors import exit_on_input_error
from fairseq_scl.compat.patches.wrapping import wrap
from fairseq_scl.errors import InputError


def apply() -> None:
    """Use a TPU only with ``--tpu``."""
    from fairseq import options

    wrap(options, "parse_args_and_arch", _parse)


def _parse(
    original: Any,
    parser: argparse.ArgumentParser,
    input_args: Any = None,
    **kwargs: Any,
) -> Any:
    words = sys.argv[1:] if input_args is None else input_args
    half = [_given(words, name) for name in ("fp16", "bf16")]
    if all(half):
        with exit_on_input_error():
            raise InputError(f"{half[0]} does not go with {half[1]}: choose one")
    parsed = original(parser, input_args, **kwargs)
    args = parsed[0] if isinstance(parsed, tuple) else parsed
    if getattr(args, "tpu", False):  # fairseq-validate parses without defaults
        args.tpu = "--tpu" in words
    return parsed


def _given(words: list[str], name: str) -> str | None:
    flags = (f"--{name}", f"--memory-efficient-{name}")
    return next((flag for flag in flags if flag in words), None)

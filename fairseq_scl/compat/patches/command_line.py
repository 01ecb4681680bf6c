"""Faults of fairseq's command line, present in every version of fairseq.

``fairseq-train --bf16`` only runs on TPUs, because it implies ``--tpu``. The trainer
itself supports bfloat16 on GPUs and CPUs, as ``fairseq-hydra-train`` shows.

``fairseq-train --help`` lacks the flags of the chosen task and criterion, such as
``--scl-lambda``. fairseq parses twice, the second time with these flags, but shows its
help in the first pass.
"""

import argparse
import sys
from typing import Any

from fairseq_scl.compat.input_errors import exit_on_input_error
from fairseq_scl.compat.wrapping import wrap
from fairseq_scl.errors import InputError


def apply() -> None:
    """Use a TPU only with ``--tpu``; show help once all flags are known."""
    from fairseq import options

    wrap(options, "parse_args_and_arch", _parse)


@exit_on_input_error()
def _parse(
    original: Any,
    parser: argparse.ArgumentParser,
    input_args: Any = None,
    **kwargs: Any,
) -> Any:
    words = sys.argv[1:] if input_args is None else input_args
    half = [_given(words, name) for name in ("fp16", "bf16")]
    if all(half):
        raise InputError(f"{half[0]} cannot be combined with {half[1]}: choose one")
    if {"-h", "--help"} & set(words):
        _help_in_the_second_pass(parser, words)
    parsed = original(parser, input_args, **kwargs)
    args = parsed[0] if isinstance(parsed, tuple) else parsed
    if getattr(args, "tpu", False):  # fairseq-validate parses without defaults
        args.tpu = "--tpu" in words
    return parsed


def _given(words: list[str], name: str) -> str | None:
    flags = (f"--{name}", f"--memory-efficient-{name}")
    return next((flag for flag in flags if flag in words), None)


def _help_in_the_second_pass(parser: argparse.ArgumentParser, words: list[str]) -> None:
    """Let the first ``parse_known_args`` read everything except ``--help``."""
    first = [word for word in words if word not in ("-h", "--help")]
    if not {"-a", "--arch"} & set(first):  # fairseq requires one
        first += ["--arch", "roberta_base"]
    parse = parser.parse_known_args

    def parse_first(_: Any = None, namespace: Any = None) -> Any:
        vars(parser).pop("parse_known_args")
        return parse(first, namespace)

    vars(parser)["parse_known_args"] = parse_first

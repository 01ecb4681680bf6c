"""Faults of fairseq's command line, present in every version of fairseq.

``fairseq-train --bf16`` only runs on TPUs, because it implies ``--tpu``. The trainer
itself supports bfloat16 on GPUs and CPUs, as ``fairseq-hydra-train`` shows.

``fairseq-train --help`` lacks the flags of the chosen task and criterion, such as
``--scl-lambda``. fairseq parses twice, the second time with these flags, but shows its
help in the first pass.

Without ``--criterion``, sentence prediction ends in a traceback, because the task reads
settings of its criterion. So does ``fairseq-validate`` without ``--task``.
"""

import argparse
import sys
from typing import Any

from fairseq_scl.compat.input_errors import exit_on_input_error
from fairseq_scl.compat.wrapping import wrap
from fairseq_scl.errors import InputError


def apply() -> None:
    """Patch the parser, as the module describes."""
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
    else:
        _check_names(parser.parse_known_args(words)[0])
    parsed = original(parser, input_args, **kwargs)
    args = parsed[0] if isinstance(parsed, tuple) else parsed
    if getattr(args, "tpu", False):  # fairseq-validate parses without defaults
        args.tpu = "--tpu" in words
    return parsed


def _given(words: list[str], name: str) -> str | None:
    flags = (f"--{name}", f"--memory-efficient-{name}")
    return next((flag for flag in flags if flag in words), None)


def _check_names(args: argparse.Namespace) -> None:
    """Refuse a missing task, and a criterion that does not belong to the task."""
    from fairseq.criterions import CRITERION_DATACLASS_REGISTRY
    from fairseq.tasks import TASK_DATACLASS_REGISTRY

    if getattr(args, "task", "") is None:
        raise InputError(
            "--task is missing: give --task and --criterion as in training, such as "
            "sentence_prediction_scl for both"
        )
    task = TASK_DATACLASS_REGISTRY.get(getattr(args, "task", None))
    name = getattr(args, "criterion", None)
    criterion = CRITERION_DATACLASS_REGISTRY.get(name)
    head = "classification_head_name"
    if hasattr(task, head) and criterion is not None and not hasattr(criterion, head):
        raise InputError(
            f"--criterion is {name!r}: --task {args.task} needs a "
            "criterion for classification, such as sentence_prediction_scl"
        )


def _help_in_the_second_pass(parser: argparse.ArgumentParser, words: list[str]) -> None:
    """Let the first ``parse_known_args`` read everything except ``--help``."""
    first = [word for word in words if word not in ("-h", "--help")]
    if not {"-a", "--arch"} & set(first):  # fairseq requires one
        first += ["--arch", "roberta_base"]
    if parser.get_default("task") is None and "--task" not in first:
        first += ["--task", "sentence_prediction"]
    parse = parser.parse_known_args

    def parse_first(_: Any = None, namespace: Any = None) -> Any:
        vars(parser).pop("parse_known_args")
        return parse(first, namespace)

    vars(parser)["parse_known_args"] = parse_first

"""Fault: ``fairseq-train --help`` lacks the flags of the chosen task and criterion.

fairseq parses twice, the second time with these flags, but shows its help in the first
pass, where ``--scl-lambda`` and the like are missing. Present in every version.
"""

import argparse
import sys
from typing import Any

from fairseq_scl.compat.patches.wrapping import wrap


def apply() -> None:
    """Show help after the flags of the chosen task and criterion are known."""
    from fairseq import options

    wrap(options, "parse_args_and_arch", _parse)


def _parse(
    original: Any,
    parser: argparse.ArgumentParser,
    input_args: Any = None,
    **kwargs: Any,
) -> Any:
    words = sys.argv[1:] if input_args is None else input_args
    first = [word for word in words if word not in ("-h", "--help")]
    if len(first) == len(words):
        return original(parser, input_args, **kwargs)
    if not {"-a", "--arch"} & set(first):  # fairseq stops without one
        first += ["--arch", "roberta_base"]
    parse = parser.parse_known_args

    def parse_first(_: Any = None, namespace: Any = None) -> Any:
        vars(parser).pop("parse_known_args")
        return parse(first, namespace)

    vars(parser)["parse_known_args"] = parse_first
    return original(parser, input_args, **kwargs)

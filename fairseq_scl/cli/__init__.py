"""``fairseq-scl VERB``: one file a verb; parsing and printing only."""

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Sequence

import fairseq_scl
from fairseq_scl.compat.versions import import_problems, problems
from fairseq_scl.errors import InputError

VERBS = {
    "analyze": "measure representations of encoder and model folders, and probe them",
    "backtranslate": "make new training examples by translating there and back",
    "convert": "turn a Hugging Face encoder into a fairseq encoder folder",
    "doctor": "print versions and what is wrong with this installation",
    "download": "fetch the official files of the paper's tasks",
    "exits": "measure accuracy against speed of multi-exit model folders",
    "export": "make a model folder from a training checkpoint",
    "figure": "draw t-SNE of the features of model folders, as Figures 2 and 3",
    "noise": "measure how far back-translations are from their sources",
    "predict": "label sentences or sentence pairs with a model folder",
    "prepare": "make a data folder for fairseq-train from labelled text files",
    "quickstart": "compare CE with CE + SCL on real sentences, end to end",
    "report": "write the tables and figures of what 'fairseq-scl run' made",
    "run": "train all runs of a table, or what is missing of them",
    "user-dir": "print the folder to give to fairseq-train --user-dir",
}
WITHOUT_FAIRSEQ = ("doctor", "user-dir")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        argv: the arguments after ``fairseq-scl``; those of the process by default.

    Returns:
        the exit status: 0, 1 (done, but something was found wrong), 2 (bad input),
        130 (interrupted) or 141 (the reader of the output went away).
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    logging.getLogger().setLevel(logging.WARNING)
    verb = argv[0] if argv and argv[0] in VERBS else None
    if verb not in (None, *WITHOUT_FAIRSEQ) and (
        found := problems() or import_problems()
    ):
        return _fail(found[0])
    if problem := _bad_word(argv):
        return _fail(problem)
    arguments = _parse(argv, verb)
    try:
        status: int = arguments.run(arguments)
        sys.stdout.flush()
        return status
    except InputError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        print("fairseq-scl: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Python flushes stdout once more at exit: let that go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Show defaults, but not where there is none, as ``(default: None)``."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False, "", []):
            return action.help
        return super()._get_help_string(action)


def _parse(argv: list[str], verb: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="fairseq-scl",
        description="Supervised contrastive fine-tuning with fairseq. Training itself "
        'is fairseq-train --user-dir "$(fairseq-scl user-dir)" --criterion '
        "sentence_prediction_scl …",
    )
    version = f"fairseq-scl {fairseq_scl.__version__}"
    parser.add_argument("--version", action="version", version=version)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, text in VERBS.items():
        sub = verbs.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            formatter_class=_HelpFormatter,
        )
        # Only the chosen verb is imported: doctor must work where the others cannot.
        if name == verb:
            module = importlib.import_module(
                f"fairseq_scl.cli.{name.replace('-', '_')}"
            )
            module.add_arguments(sub)
            sub.set_defaults(run=module.run)
    return parser.parse_args(argv)


def _bad_word(argv: Sequence[str]) -> str | None:
    """Tell which argument no option can take: an empty one, or one not in UTF-8."""
    for before, word in zip(["", *argv], argv, strict=False):
        if not word:
            return f"the argument after {before!r} is empty: is a variable not set?"
        if not word.isascii() and any("\ud800" <= c <= "\udfff" for c in word):
            return f"the argument {word!a} is not UTF-8: rename the file"
    return None


def _fail(message: str) -> int:
    print(f"fairseq-scl: error: {message}", file=sys.stderr)
    return 2

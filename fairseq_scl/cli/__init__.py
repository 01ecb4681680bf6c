"""``fairseq-scl VERB``: one file per verb, argument parsing and printing only."""

import argparse
import gc
import importlib
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import fairseq_scl
from fairseq_scl.cli.endings import (
    REPORT,
    discard_output,
    fail,
    open_standard_streams,
    sentence_of,
)
from fairseq_scl.compat.versions import import_problems, problems
from fairseq_scl.errors import InputError

VERBS = {
    "analyze": "measure the representations of encoders and models, and probe them",
    "backtranslate": "generate training examples by back-translation",
    "compare": "compare objectives on your own table of labeled texts",
    "convert": "convert a Hugging Face encoder or classifier to a folder for fairseq",
    "doctor": "print versions and check the installation for problems",
    "download": "download the official files of the paper's tasks, or an encoder",
    "evaluate": "measure accuracy, F1 and calibration of a model folder",
    "exits": "measure accuracy and speed of multi-exit model folders",
    "export": "create a model folder or a Hugging Face folder from a checkpoint",
    "figure": "draw t-SNE plots of model folders' features, as in Figures 2 and 3",
    "noise": "measure how far back-translations are from their sources",
    "predict": "label sentences or sentence pairs with a model folder",
    "prepare": "create a data folder for fairseq-train from labeled text files",
    "quickstart": "compare CE with CE + SCL on real sentences, end to end",
    "report": "write the tables and figures for the results of 'fairseq-scl run'",
    "run": "train the unfinished runs of one of the paper's tables, or of your own",
    "train": "train a classifier on your own table of labeled texts",
    "translation": "run one step of scripts/train_translation.sh",
    "user-dir": "print the folder for fairseq-train --user-dir",
}
WITHOUT_FAIRSEQ = ("doctor", "user-dir")
TRAINING = ("compare", "quickstart", "run", "train")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb with the given arguments, or with those of the process.

    Returns:
        the exit status: 0, 1 (the verb found a problem, or a bug), 2 (bad input), 130
        (interrupted) or 141 (the output was closed by its reader).
    """
    open_standard_streams()
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        try:
            return _run(argv)
        finally:
            sys.stdout.flush()  # here, so that a full disk is reported as an error
    except KeyboardInterrupt:
        return _fail_interrupted(argv[0] if argv else None)
    except BrokenPipeError:
        discard_output()
        return 141
    except Exception as error:
        discard_output()
        if sentence := sentence_of(error):
            return fail(f"error: {sentence}", 2)
        traceback.print_exc()
        return fail(REPORT, 1)


def _fail_interrupted(verb: str | None) -> int:
    how = "; run the same command again to resume" if verb in TRAINING else ""
    return fail(f"interrupted{how}", 130)


def _run(argv: list[str]) -> int:
    logging.basicConfig()
    logging.getLogger().setLevel(logging.WARNING)
    verb = argv[0] if argv and argv[0] in VERBS else None
    asked = {"-h", "--help"}.intersection(argv)
    if verb in TRAINING and not asked and sys.stderr.isatty():
        print("loading PyTorch, fairseq and the encoder", file=sys.stderr, flush=True)
    if verb not in (None, *WITHOUT_FAIRSEQ):
        with _interruptible(verb):
            found = problems() or import_problems()
        if found:
            raise InputError(found[0])
    if problem := _bad_word(argv):
        raise InputError(problem)
    arguments = _parse(argv, verb)
    status: int = arguments.run(arguments)
    return status


@contextmanager
def _interruptible(verb: str | None) -> Iterator[None]:
    """Exit at once on Ctrl-C, which imports may turn into other errors.

    What is imported stays until the end. Looking for garbage in it, now and when the
    process ends, would take a quarter of the time of a short command.
    """
    handler = signal.getsignal(signal.SIGINT)
    ours = handler is signal.default_int_handler
    ours &= threading.current_thread() is threading.main_thread()
    if ours:
        signal.signal(signal.SIGINT, lambda *_: os._exit(_fail_interrupted(verb)))
    collects, known = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
        if len(sys.modules) > known:
            gc.freeze()
        if ours:
            signal.signal(signal.SIGINT, handler)


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Show defaults, except empty ones such as ``(default: None)``."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default = action.default
        if default is None or default is False or default in ("", []):
            return action.help
        if isinstance(default, list):  # as it would be typed
            return f"{action.help} (default: {' '.join(map(str, default))})"
        return super()._get_help_string(action)


def _parse(argv: list[str], verb: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="fairseq-scl",
        description="Supervised contrastive fine-tuning with fairseq. Start with "
        "'fairseq-scl quickstart', or with 'fairseq-scl train' and a table of your own "
        'texts; for full control, use fairseq-train --user-dir "$(fairseq-scl '
        'user-dir)" --criterion sentence_prediction_scl …',
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
        # Import only the chosen verb: doctor must work if others cannot be imported.
        if name == verb:
            with _interruptible(name):
                module = importlib.import_module(
                    f"fairseq_scl.cli.{name.replace('-', '_')}"
                )
            module.add_arguments(sub)
            sub.set_defaults(run=module.run)
    return parser.parse_args(argv)


def _bad_word(argv: Sequence[str]) -> str | None:
    """Return an error message if an argument is empty or not UTF-8."""
    for before, word in zip(["", *argv], argv, strict=False):
        if not word:
            return f"the argument after {before!r} is empty: is a variable not set?"
        if not word.isascii() and any("\ud800" <= c <= "\udfff" for c in word):
            try:
                os.fsencode(word).decode("utf-8")
            except UnicodeError:
                return f"the argument {word!a} is not UTF-8: rename the file"
            return f"the locale cannot read the argument {word!a}: set PYTHONUTF8=1"
    return None

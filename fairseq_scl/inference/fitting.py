"""Training from Python: the command ``fairseq-scl train`` in a process of its own.

fairseq's training changes logging, random states and standard output of its process, so
it does not run in the caller's.
"""

import codecs
import json
import os
import re
import select
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import fairseq_scl
from fairseq_scl.data.files import write_then_rename
from fairseq_scl.data.readers import DROP
from fairseq_scl.errors import InputError
from fairseq_scl.inference.arguments import SETTINGS, items_of

# The command's, and those of argparse.
ERROR = re.compile(r"fairseq-scl(?: train)?: error: ")
NOTE = re.compile(r"fairseq-scl: (?:note|warning): (.+)")
OWN = re.compile(r"fairseq-scl.*")  # without the end of the line
MOST_SECONDS = 5  # for which an ended command's workers may be silent


def check_examples(
    texts: Sequence[str | tuple[str, str]], labels: Sequence[str | int]
) -> list[dict[str, str]]:
    """Return the rows of a table of labeled texts or pairs.

    Args:
        texts: N texts, or N pairs of texts.
        labels: N names of classes, or N integers.

    Raises:
        InputError: names the argument, or the first text or label, of another type.
    """
    texts, labels = items_of(texts, "texts"), items_of(labels, "labels")
    if len(texts) != len(labels):
        raise InputError(f"there are {len(texts)} texts but {len(labels)} labels")
    rows: list[dict[str, str]] = []
    for number, (text, label) in enumerate(zip(texts, labels, strict=True)):
        parts = tuple(text) if isinstance(text, tuple | list) else (text,)
        if len(parts) not in (1, 2) or not all(isinstance(p, str) for p in parts):
            raise InputError(
                f"texts[{number}] is {repr(text)[:60]}: it must be a string or a pair "
                "of strings"
            )
        if rows and len(rows[0]) != 1 + len(parts):
            raise InputError(
                f"texts[{number}] is {repr(text)[:60]}: mixed with "
                f"{'single texts' if len(parts) == 2 else 'pairs'}"
            )
        if not isinstance(label, str):
            if isinstance(label, bool) or not hasattr(label, "__index__"):
                raise InputError(
                    f"labels[{number}] is {label!r}: it must be a string or an integer"
                )
            label = str(int(label))
        names = ("text",) if len(parts) == 1 else ("sentence1", "sentence2")
        rows.append({**dict(zip(names, parts, strict=True)), "label": label})
    return rows


def train_in_a_process(
    rows: Sequence[Mapping[str, str]],
    table: Path,
    folder: Path,
    settings: Mapping[str, object],
    progress: bool,
) -> None:
    """Write the rows to a table and train a model folder on it.

    Args:
        rows: from :func:`check_examples`.
        table: the ``.jsonl`` file to write.
        folder: model folder to write.
        settings: options of ``fairseq-scl train``, with underscores.
        progress: copy the command's progress to ``sys.stderr``.

    Warns:
        UserWarning: what the command notes about the rows or the model.

    Raises:
        InputError: the command refuses the rows or a setting.
        RuntimeError: training failed.
    """
    with write_then_rename(table) as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    command = [sys.executable, "-m", "fairseq_scl.cli", "train", str(table)]
    for name, value in {"to": folder, **settings}.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            command.append(flag)
        elif value is not None and value is not False:
            command.append(f"{flag}={value}")
    package = str(Path(fairseq_scl.__file__).parent.parent)
    path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    printed = ""
    with _started(command, {**os.environ, "PYTHONPATH": path}) as process:
        output = process.stderr
        held, hidden = "", not progress
        while output and (piece := os.read(output.fileno(), 1 << 16)):
            text = decoder.decode(piece)
            printed = (printed + text)[-10_000:]
            hidden = hidden or text.startswith("usage: ")  # before an error
            lines = (held + text).splitlines(keepends=True)
            # The end of one of the command's own lines may be in the next piece.
            whole = not lines or not OWN.fullmatch(lines[-1])
            held = "" if whole else lines.pop()
            for line in lines:
                if found := NOTE.match(line):
                    warnings.warn(_in_python(found[1], table), stacklevel=3)
                elif not hidden and not line.startswith("fairseq-scl"):
                    sys.stderr.write(line)
    if process.returncode:
        last = printed.strip().rpartition("\n")[2]
        if process.returncode == 2 and (error := ERROR.search(last)):
            raise InputError(_in_python(last[error.end() :], table))
        reason = ERROR.sub("", last).removeprefix("training failed, ")
        if table.parent in folder.parents:  # the log is deleted as well
            reason = re.sub(rf"see {re.escape(str(folder))}\S*: ", "", reason)
        raise RuntimeError(f"training failed: {reason}")


@contextmanager
def _started(
    command: Sequence[str], environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process with stderr in a pipe; an exception also ends the process.

    Jupyter interrupts only its own process. Stderr is open until the workers of a
    training, which follow it, have ended as well.
    """
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment,
    ) as process:
        try:
            yield process
        except BaseException:
            process.terminate()
            output = process.stderr
            while output and select.select([output], [], [], MOST_SECONDS)[0]:
                if not os.read(output.fileno(), 1 << 16):
                    break
            process.wait()
            raise


def _in_python(message: str, table: Path) -> str:
    """Name texts instead of lines of the table, and settings instead of their flags."""
    line = rf"{re.escape(str(table))}(?:, line |:)(\d+)"
    message = re.sub(line, lambda found: f"texts[{int(found[1]) - 1}]", message)
    message = message.replace(str(table), "the examples").removesuffix(DROP)

    def setting(flag: re.Match[str]) -> str:
        name = flag[1].replace("-", "_")
        return name if name in SETTINGS else flag[0]

    return re.sub(r"--([a-z-]+)", setting, message)

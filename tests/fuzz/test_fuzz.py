"""Damaged files and odd arguments for every command must be refused.

``python -m pytest -m slow -s tests/fuzz`` tries 600 cases and prints their totals.
``FUZZ_CASES`` sets their number and ``FUZZ_SEED`` selects them. Each case is a fork
that calls ``main`` with memory and time limits.
"""

import os
import random
import resource
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from fairseq_scl.cli import VERBS, main
from fairseq_scl.cli.endings import fail, sentence_of
from fairseq_scl.data.files import read_json, write_json
from fairseq_scl.data.folders import MANIFEST, manifest
from fairseq_scl.errors import InputError
from fairseq_scl.inference.classifier import Classifier
from helpers.corpus import COMMANDS, PYTHON, make_corpus
from helpers.damage import HOPELESS, MARKER, TEXT, WAYS

CASES = int(os.environ.get("FUZZ_CASES", "600"))
SEED = int(os.environ.get("FUZZ_SEED", "0"))
SECONDS, GIGABYTES = 60, 6
ODD = (
    *(
        "",
        ".",
        "/",
        "..",
        "@/out/../../x",
        "@/nothing",
        "@/lines.txt",
        "@/loop",
        "@/text",
    ),
    *("nan", "inf", "-1", "0", "1e999", "9" * 30, "²", "0-²", "٣", "x" * 5000, "a=b=c"),
    *("=", "${oc.env:HOME}", "\udcff", "@/é\udcff", "/dev/null", "/proc/self/mem", "@"),
)
ALONE = ("doctor", "download", "exits", "quickstart", "user-dir", "export", "run")


@dataclass(frozen=True)
class Verdict:
    """The outcome of a case."""

    verb: str
    what: str
    outcome: str
    error: str


@pytest.mark.slow
def test_any_kind_of_damage_is_refused(tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    make_corpus(corpus)
    torch.set_num_threads(1)
    for command in COMMANDS:
        sound = _try(corpus, tmp_path, command.argv, "sound", False)
        assert sound.outcome == "accepted", sound
    verdicts = []
    for number in range(CASES):
        verdicts.append(_case(corpus, tmp_path, number))
        with open(tmp_path / "verdicts.txt", "a", encoding="utf-8") as file:
            file.write(f"{number} {verdicts[-1]!a}\n")
    _print_totals(verdicts)
    wrong = [v for v in verdicts if v.outcome not in ("accepted", "refused")]
    assert not wrong, "\n".join(map(str, wrong))


def _case(corpus, tmp_path, number):
    draw = random.Random(f"{SEED} {number}")
    command = COMMANDS[number % len(COMMANDS)]
    if draw.random() < 0.2:
        return _odd_argument(corpus, tmp_path, command, draw)
    pattern = draw.choice(command.files)
    path = draw.choice(sorted(p for p in corpus.glob(pattern) if p.is_file()))
    return _damaged(corpus, tmp_path, command, path.relative_to(corpus), draw)


def _damaged(corpus, tmp_path, command, name, draw):
    """Damage a file; in half of the cases, update the manifest to match."""
    place = draw.random()
    work = tmp_path / "work"
    shutil.copytree(corpus, work, copy_function=os.link)
    path = work / name
    data = path.read_bytes()
    path.unlink()
    if place < 0.08:
        way, hopeless = "a folder in its place", True
        path.mkdir()
    elif place < 0.12:
        way, hopeless = "a link to itself in its place", True
        path.symlink_to(path.name)
    else:
        change = draw.choice(WAYS.get(path.suffix, TEXT))
        made = change(data, draw)
        way, hopeless = change.__name__, change in HOPELESS and made != data
        path.write_bytes(made)
    if draw.random() < 0.5 and _tell_manifest(path):
        way += ", and the manifest says so"
        hopeless &= path.suffix == ".pt"  # other files may not be needed
    return _try(None, tmp_path, command.argv, f"{name}: {way}", hopeless)


def _tell_manifest(path):
    for folder in path.parents:
        file = folder / MANIFEST
        if path != file and file.is_file():
            found = {**read_json(file), "sha256": manifest(folder, "")["sha256"]}
            found["sha256"].pop(MANIFEST, None)
            file.unlink()  # it is a hard link
            write_json(file, found)
            return True
    return False


def _odd_argument(corpus, tmp_path, command, draw):
    """Replace an argument, or call a verb with another verb's options."""
    argv = list(command.argv)
    odd = draw.choice(ODD)
    if draw.random() < 0.2:
        flags = ("--jobs", "--split", "--to", "--only", "--set", "--seed", "--model")
        argv = [draw.choice(ALONE), draw.choice(flags), odd]
    else:
        argv[draw.randrange(1, len(argv))] = odd
    return _try(corpus, tmp_path, argv, f"argument {odd[:40]!a}", False)


def _try(corpus, tmp_path, argv, what, hopeless):
    """Run a command in a fork on a copy of the corpus; judge and clean up."""
    work, marker = tmp_path / "work", Path(MARKER)
    if corpus is not None:
        shutil.copytree(corpus, work, copy_function=os.link)
    (work / "loop").symlink_to("loop")
    (work / "précieux.txt").write_text("years of work", "utf-8")
    before = _files(work)
    words = [word.replace("@", str(work)) for word in argv]
    status, error = _forked(words, tmp_path)
    after = _files(work)
    lost = [name for name, state in before.items() if after.get(name) != state]
    outcome = _outcome(status, error, hopeless)
    if marker.exists():
        marker.unlink()
        outcome = "code run"
    elif lost:
        outcome = f"lost {lost[0]}"
    shutil.rmtree(work)
    return Verdict(argv[0], f"{' '.join(argv)[:200]} | {what}", outcome, error[-300:])


def _outcome(status, error, hopeless):
    if status == -signal.SIGKILL:
        return "hangs"
    if "Traceback" in error:
        return "traceback"
    if status == 0:
        return "accepted in silence" if hopeless else "accepted"
    last = error.strip().splitlines()[-1] if error.strip() else ""
    plain = last.startswith("fairseq-scl") and ": error: " in last
    if (status == 2 and plain) or status == 1:
        return "refused"
    return f"status {status}"


def _files(work):
    """Return size and time of all files that must not change."""
    found = {}
    for path in work.rglob("*"):
        name = path.relative_to(work)
        if path.is_file() and not name.parts[0].startswith("out"):
            state = path.stat()
            found[str(name)] = (state.st_size, state.st_mtime_ns)
    return {n: s for n, s in found.items() if not Path(n).name.startswith(".")}


def _forked(words, tmp_path):
    """Call ``main`` in a fork; return its status and stderr."""
    out, err = tmp_path / "stdout", tmp_path / "stderr"
    child = os.fork()
    if child == 0:
        status = 99
        try:
            os.setsid()
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            for number, name in ((0, os.devnull), (1, out), (2, err)):
                os.dup2(os.open(name, flags if number else os.O_RDONLY, 0o600), number)
            sys.stdin, sys.stdout, sys.stderr = map(os.fdopen, range(3), "rww")
            limit = GIGABYTES << 30
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            os.chdir(tmp_path / "work")
            status = _predicted(words) if words[0] == PYTHON else main(words)
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else 2
        finally:
            sys.stderr.flush()
            os._exit(status)
    end = time.monotonic() + SECONDS
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
        time.sleep(0.01)
    with open(err, encoding="utf-8", errors="replace") as file:
        return os.waitstatus_to_exitcode(ended[1]), file.read()


def _predicted(words):
    """Label a text from Python; end as a command does if the input is refused."""
    try:
        Classifier.load(*words[1:]).predict(["a gripping film"])
    except (InputError, OSError) as error:
        return fail(f"error: {sentence_of(error)}", 2)
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def _print_totals(verdicts):
    tell = sys.stdout.write
    kinds = (
        "refused",
        "accepted",
        "accepted in silence",
        "traceback",
        "hangs",
        "code run",
    )
    tell(f"\n| verb | cases | {' | '.join(kinds)} | other |\n")
    tell(f"| --- |{' ---: |' * (len(kinds) + 2)}\n")
    for verb in (*VERBS, PYTHON, "all"):
        found = Counter(v.outcome for v in verdicts if verb in (v.verb, "all"))
        counts = [found[kind] for kind in kinds]
        rest = [sum(found.values()), *counts, sum(found.values()) - sum(counts)]
        if rest[0]:
            tell(f"| {verb} | {' | '.join(map(str, rest))} |\n")

"""Text and numbers that would take all memory or never end: refused at once."""

import io
import time
import tracemalloc
from collections import Counter

import pytest

from fairseq_scl import typed
from fairseq_scl.data import files
from fairseq_scl.data.files import read_json
from fairseq_scl.data.quotes import is_quoted
from fairseq_scl.data.suspects import Checks, check_labels
from fairseq_scl.errors import InputError
from fairseq_scl.experiments.plan import choose, planned_runs
from fairseq_scl.experiments.results_folder import read_metrics
from fairseq_scl.experiments.tables import load_table
from fairseq_scl.inference.inputs import rows
from helpers.encoders import toy_encoder
from helpers.refusals import refused
from helpers.tasks import write

MANY = 10**11
DEEP = {
    "list": "[" * 200_000 + "]" * 200_000,
    "object": '{"a":' * 200_000 + "1" + "}" * 200_000,
    "open": "[" * 200_000,
}


@pytest.fixture(autouse=True)
def at_once():
    """Each refusal takes a moment, whatever a number in the file says."""
    start = time.monotonic()
    yield
    assert time.monotonic() - start < 20


# JSON


@pytest.mark.parametrize("read", [read_json, read_metrics])
@pytest.mark.parametrize("text", DEEP.values(), ids=DEEP)
def test_deep_json_is_refused(tmp_path, text, read):
    path = tmp_path / "deep.json"
    path.write_text(text + "\n")
    with refused(path):
        read(path)


def test_a_json_file_larger_than_any_is_refused_before_it_is_read(
    tmp_path, monkeypatch
):
    path = tmp_path / "large.json"
    with path.open("wb") as file:
        file.truncate(typed.LARGEST_JSON + 1)  # takes no room on the disk
    monkeypatch.setattr(files.Path, "read_text", lambda *_, **__: pytest.fail("read"))
    with pytest.raises(InputError, match=f"large.json has {typed.LARGEST_JSON + 1:,}"):
        read_json(path)


# Tables


def test_texts_as_labels_are_refused():
    texts = Counter(f"text number {n}" for n in range(20_000))
    with refused("is one of 20000 labels"):
        check_labels(texts, dict.fromkeys(texts, "a.csv, line 2"), Checks())


def test_a_quote_that_is_never_closed_is_refused():
    table = b'text\n"open\n' + b"a line of text\n" * 200_000
    with refused("line 2 opens a quote"):
        list(rows(io.BytesIO(table), Counter(), False, ["text"], "csv"))


def test_a_quote_that_is_never_closed_takes_little_memory(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_bytes(b'text\tlabel\n"open\tyes\n' + b"a line of text\tno\n" * 50_000)
    tracemalloc.start()
    try:
        assert not is_quoted(path)
        assert tracemalloc.get_traced_memory()[1] < 15 * path.stat().st_size
    finally:
        tracemalloc.stop()


# YAML


LAUGHS = "a0: &a0 [x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 30)
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (LAUGHS, "alias *a0"),
        ("tasks: &t [*t]\n", "alias *t"),
        ("training: &t\n  epochs: *t\n", "alias *t"),
        ("a: " + "[" * 10_000 + "]" * 10_000, "nested"),
        ("- " * 10_000 + "a", "nested"),
    ],
)
def test_yaml_that_explodes_is_refused(tmp_path, text, reason):
    path = write(tmp_path / "own.yaml", text)
    with refused(path, reason):
        load_table(str(path))


def test_a_setting_that_explodes_is_refused():
    with pytest.raises(InputError, match=r"--set .*alias \*a"):
        load_table("table4", ["updates=&a {20: *a}"])


EVERY = [n / 100 for n in range(1, 100)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"repetitions: 10": f"repetitions: {MANY}"},
            f"{MANY} repetitions give 15,000",
        ),
        (
            {
                "[0.1, 0.3, 0.5, 0.7, 0.9, 1.0]": str(EVERY),
                "[0.1, 0.3, 0.5, 0.7]": str(EVERY),
            },
            "give 588,120 runs",
        ),
    ],
)
def test_a_table_of_endless_runs_is_refused(tmp_path, changes, message):
    text = files.Path(load_table.__globals__["CONF"], "table2.yaml").read_text("utf-8")
    for before, after in changes.items():
        text = text.replace(before, after)
    with refused(message):
        load_table(str(write(tmp_path / "own.yaml", text)))


# Numbers


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    found = load_table("table2")
    encoder = tmp_path_factory.mktemp("encoder")
    return planned_runs(found, encoder, dict.fromkeys(found.losses, encoder))


def test_a_range_of_only_is_not_written_out(runs):
    for spelled in (f"3-{MANY}", f"3-{10**17}", "3-007"):
        chosen = choose(runs, f"sample={spelled}")
        numbers = {run.cell["seed"] for run in chosen}
        there = {run.cell["seed"] for run in runs}
        most = int(spelled.split("-")[1])
        assert numbers == {n for n in there if 3 <= n <= most}


@pytest.mark.parametrize(
    "spelled", [f"{MANY}-{MANY + 9}", "0-²", "9-3", "0-" + "9" * 5000]
)
def test_a_range_of_only_without_a_run_is_refused(runs, spelled):
    with pytest.raises(InputError, match="--only"):
        choose(runs, f"sample={spelled}")


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--samples", ["--few-shot", 2]),
        ("--size-valid", []),
        ("--size-test", []),
        ("--few-shot", ["--size-valid", 4, "--size-test", 4]),
    ],
)
def test_numbers_of_prepare_are_bounded(tmp_path, refusal, flag, words):
    rows = [f"text {n}\t{'good' if n % 2 else 'bad'}" for n in range(40)]
    source = write(tmp_path / "own.tsv", "text\tlabel", *rows)
    argv = ["prepare", "--table", source, "--columns", "text", "label", "--encoder"]
    argv += [toy_encoder(), "--to", tmp_path / "to", *words, flag, MANY]
    error = refusal(*argv)
    assert str(MANY) in error
    assert flag in error or flag == "--few-shot"
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize("flag", ["--samples", "--size", "--updates"])
def test_numbers_of_the_quick_start_are_bounded(tmp_path, refusal, flag):
    error = refusal("quickstart", "--to", tmp_path / "to", flag, MANY)
    assert f"{flag} is {MANY}: it must be at most" in error

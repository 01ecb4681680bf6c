"""Text and numbers that would take all memory or never end: refused at once."""

import io
import tarfile
import time

import pytest

from fairseq_scl import typed
from fairseq_scl.augment.pretrained import MODELS, unpack
from fairseq_scl.cli import main
from fairseq_scl.data import files
from fairseq_scl.data.files import read_json
from fairseq_scl.data.readers import json_rows
from fairseq_scl.errors import InputError
from fairseq_scl.experiments.plan import choose, planned_runs
from fairseq_scl.experiments.results_folder import read_metrics
from fairseq_scl.experiments.tables import load_table
from helpers.encoders import toy_encoder
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


@pytest.mark.parametrize("text", DEEP.values(), ids=DEEP)
def test_deep_json_is_refused(tmp_path, text):
    path = tmp_path / "deep.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"deep\.json"):
        read_json(path)


@pytest.mark.parametrize("text", DEEP.values(), ids=DEEP)
def test_deep_lines_of_json_are_refused_by_line(tmp_path, text):
    path = tmp_path / "deep.jsonl"
    path.write_text(f'{{"text": "a"}}\n{{"text": {text}}}\n')
    with pytest.raises(InputError, match=r"deep\.jsonl, line 2"):
        list(json_rows(path, ["text"]))
    path.write_text(text + "\n")
    with pytest.raises(InputError, match=r"deep\.jsonl, line 1"):
        read_metrics(path)


def test_a_json_file_larger_than_any_is_refused_before_it_is_read(
    tmp_path, monkeypatch
):
    path = tmp_path / "large.json"
    with path.open("wb") as file:
        file.truncate(typed.LARGEST_JSON + 1)  # takes no room on the disk
    monkeypatch.setattr(files.Path, "read_text", lambda *_, **__: pytest.fail("read"))
    with pytest.raises(InputError, match=f"large.json has {typed.LARGEST_JSON + 1:,}"):
        read_json(path)


# YAML


def table(folder, text):
    path = folder / "own.yaml"
    path.write_text(text)
    return path


LAUGHS = "a0: &a0 [x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 30)
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (LAUGHS, r"alias \*a0"),
        ("tasks: &t [*t]\n", r"alias \*t"),
        ("training: &t\n  epochs: *t\n", r"alias \*t"),
        ("a: " + "[" * 10_000 + "]" * 10_000, "nested"),
        ("- " * 10_000 + "a", "nested"),
    ],
)
def test_yaml_that_explodes_is_refused(tmp_path, text, reason):
    path = table(tmp_path, text)
    with pytest.raises(InputError, match=reason) as caught:
        load_table(str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_setting_that_explodes_is_refused():
    with pytest.raises(InputError, match=r"--set .*alias \*a"):
        load_table("table4", ["updates=&a {20: *a}"])


def test_a_table_of_endless_repetitions_is_refused(tmp_path):
    source = files.Path(load_table.__globals__["CONF"], "table2.yaml")
    lines = source.read_text("utf-8").splitlines()
    text = "\n".join(
        f"repetitions: {MANY}" if line.startswith("repetitions:") else line
        for line in lines
    )
    with pytest.raises(InputError, match=f"{MANY} repetitions give 15,000"):
        load_table(str(table(tmp_path, text)))


def test_lists_that_multiply_to_endless_runs_are_refused(tmp_path):
    source = files.Path(load_table.__globals__["CONF"], "table2.yaml")
    many = [n / 100 for n in range(1, 100)]
    text = source.read_text("utf-8")
    for values in ("[0.1, 0.3, 0.5, 0.7, 0.9, 1.0]", "[0.1, 0.3, 0.5, 0.7]"):
        text = text.replace(values, str(many))
    with pytest.raises(InputError, match="give 588,120 runs"):
        load_table(str(table(tmp_path, text)))


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
def test_numbers_of_prepare_are_bounded(tmp_path, capsys, flag, words):
    rows = [f"text {n}\t{'good' if n % 2 else 'bad'}" for n in range(40)]
    source = write(tmp_path / "own.tsv", "text\tlabel", *rows)
    argv = ["prepare", "--table", source, "--columns", "text", "label", "--encoder"]
    argv += [toy_encoder(), "--to", tmp_path / "to", *words, flag, MANY]
    assert main([str(word) for word in argv]) == 2
    told = capsys.readouterr().err
    assert str(MANY) in told
    assert flag in told or flag == "--few-shot"
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize(
    ("flag", "verb"),
    [
        ("--samples", "quickstart"),
        ("--size", "quickstart"),
        ("--updates", "quickstart"),
    ],
)
def test_numbers_of_the_quick_start_are_bounded(tmp_path, capsys, flag, verb):
    assert main([verb, "--output", str(tmp_path / "to"), flag, str(MANY)]) == 2
    assert f"{flag} is {MANY}: it must be at most" in capsys.readouterr().err


# Archives


def test_an_archive_that_unpacks_to_much_more_is_refused(tmp_path):
    path = tmp_path / "bomb.tar.gz"
    size = 200 << 20
    member = tarfile.TarInfo("a/model.pt")
    member.size = size
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        tar.addfile(member, io.BytesIO(bytes(size)))
    to = tmp_path / "to"
    with pytest.raises(InputError, match=r"bomb\.tar\.gz was not unpacked: .*a/model"):
        unpack(path, to, MODELS["wmt19", "en", "de"], ("en", "de"))
    assert not to.exists()

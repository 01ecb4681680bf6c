"""``fairseq-scl prepare`` and ``download`` as commands."""

from functools import partial

import pytest

from fairseq_scl.cli import main
from helpers.encoders import toy_encoder
from helpers.outputs import contents
from helpers.tasks import write, write_sst2, write_yelp


@pytest.fixture
def prepare(run):
    """Run ``prepare`` on the toy encoder; return status, output and error line."""
    return partial(run, "prepare", "--encoder", toy_encoder())


@pytest.fixture
def refused(refusal):
    """Run ``prepare`` on the toy encoder, which must refuse; return its error."""
    return partial(refusal, "prepare", "--encoder", toy_encoder())


def test_help_shows_that_the_sources_exclude_each_other(run):
    usage = " ".join(run("prepare", "--help")[1].split())
    choice = "(--text FOLDER | --task NAME | --sample FOLDER | --table FILE)"
    assert f"usage: fairseq-scl prepare [-h] {choice} " in usage


def test_a_task_becomes_data_folders(prepare, tmp_path):
    write_sst2(tmp_path / "glue")
    status, out, _ = prepare(
        *["--task", "SST-2", "--from", tmp_path / "glue", "--to", tmp_path / "out"],
        *["--few-shot", 6, "--samples", 2, "--full", "--partial", "--size-valid", 10],
    )
    assert status == 0
    for name, size in (("full", 60), ("n6-sample0", 6), ("n6-sample1", 6)):
        folder = tmp_path / "out" / name
        assert f"wrote {folder}: {size} train, 10 valid, 21 test\n" in out
        for part in ("input0", "label"):
            for split in ("train", "valid", "test"):
                assert (folder / part / f"{split}.bin").is_file()
    assert "classes: 0 = negative, 1 = positive\n" in out


def test_folders_are_replaced_together_or_not_at_all(prepare, tmp_path):
    write_sst2(tmp_path / "glue")
    argv = ["--task", "SST-2", "--from", tmp_path / "glue", "--to", tmp_path / "out"]
    argv += ["--few-shot", 6, "--samples", 2, "--partial", "--size-valid", 10]
    assert prepare(*argv)[0] == 0
    mine = tmp_path / "out" / "n6-sample1" / "mine.txt"
    mine.write_text("mine", "utf-8")
    kept = contents(tmp_path)
    status, out, error = prepare(*argv, "--seed", 1)
    assert (status, "wrote" in out) == (2, False)
    assert f"error: {mine.parent} is not replaced, because it contains mine" in error
    assert contents(tmp_path) == kept
    mine.unlink()
    assert prepare(*argv, "--seed", 1)[0] == 0
    assert contents(tmp_path).keys() == kept.keys() - {"out/n6-sample1/mine.txt"}


def test_reviews_are_balanced_without_being_asked(prepare, refused, tmp_path):
    write_yelp(tmp_path)
    argv = ["--task", "Yelp-2", "--from", tmp_path, "--to", tmp_path / "out"]
    argv += ["--partial", "--size-valid", 4, "--samples", 1]
    assert prepare(*argv, "--few-shot", 4)[0] == 0
    error = refused(*argv, "--few-shot", 5)
    assert "5 is not a multiple of the number of classes, 2" in error


def test_skipped_rows_are_reported(prepare, tmp_path):
    folder = write_yelp(tmp_path) / "yelp_review_polarity_csv"
    with (folder / "train.csv").open("a") as file:
        file.write('"1",""\n')
    argv = ["--task", "Yelp-2", "--from", tmp_path, "--to", tmp_path / "out"]
    _, out, _ = prepare(*argv, "--partial")
    assert f"skipped: 1 rows without a text of {folder / 'train.csv'}\n" in out


def test_an_own_table_with_a_held_out_file(prepare, refused, tmp_path):
    rows = [f'"text, {i}",{"ab"[i % 2]}' for i in range(20)]
    table = write(tmp_path / "train.csv", "s,l", *rows)
    argv = ["--table", table, "--columns", "s", "l", "--to", tmp_path / "out"]
    for name in ("train.csv", "dev.csv"):  # itself, or a copy
        held_out = write(tmp_path / name, "s,l", *rows)
        assert f"{held_out} are the same" in refused(*argv, "--held-out", held_out)
    write(held_out, "s,l", *reversed(rows))
    status, out, _ = prepare(*argv, "--held-out", held_out)
    assert status == 0
    assert f"wrote {tmp_path / 'out' / 'full'}: 20 train, 10 valid, 10 test\n" in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--task", "SST-2"], "--task needs --from"),
        (["--table", "t.csv"], "--table needs --columns"),
        (["--text", "t", "--from", "f"], "--from needs --task, not --text"),
        (
            ["--task", "SST-2", "--from", "f", "--columns", "a", "b"],
            "--columns needs --table, not --task",
        ),
        (
            ["--task", "RTE", "--from", "f", "--samples", "10"],  # the default
            "--samples needs --few-shot",
        ),
        (
            ["--table", "t.csv", "--columns", "s", "l", "--balanced"],
            "--balanced needs --few-shot",
        ),
        (["--table", "t.csv", "--partial"], "--partial needs --task, not --table"),
        (["--text", "t", "--few-shot", "20"], "--few-shot needs --task or --table"),
        (["--text", "t", "--seed", "0"], "--seed needs --task or --table"),
        (["--task", "IMDB", "--from", "f"], "there is no task 'IMDB': choose from"),
        (["--task", "RTE", "--from", "f"], "there is no train.tsv of RTE in f/RTE or"),
    ],
)
def test_options_that_do_not_go_together_are_refused(refused, tmp_path, argv, message):
    error = refused(*argv, "--to", tmp_path / "out")
    assert error.startswith(f"fairseq-scl: error: {message}")


@pytest.mark.parametrize("flag", ["--samples", "--size-valid", "--size-test"])
def test_numbers_below_one_are_refused(refused, tmp_path, flag):
    write_sst2(tmp_path)
    argv = ["--task", "SST-2", "--from", tmp_path, "--to", tmp_path / "out"]
    error = refused(*argv, "--few-shot", 6, flag, 0)
    assert error == f"fairseq-scl: error: {flag} is 0: it must be at least 1"


def test_shares_with_one_folder_are_refused(refused, tmp_path):
    write_sst2(tmp_path)
    argv = ["--task", "SST-2", "--from", tmp_path, "--to", tmp_path / "out"]
    error = refused(*argv, "--partial", "--flip-labels", 0.1, "0.10000001")
    assert "--flip-labels is 0.10000001: " in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--task", ""], "the argument after '--task' is empty"),
        (["--text", "a", "--from", ""], "the argument after '--from' is empty"),
        (["--text", "caf\udce9"], "the argument 'caf\\udce9' is not UTF-8"),
    ],
)
def test_arguments_that_are_empty_or_not_utf8_are_refused(refused, argv, message):
    error = refused(*argv, "--to", "out")
    assert error.startswith(f"fairseq-scl: error: {message}")


def test_an_own_table_is_checked_as_a_folder_is(prepare, tmp_path, capfd):
    rows = [f"a fine film {i},{'good' if i % 2 else 'bad'}" for i in range(40)]
    rows[7] = rows[4]
    table = write(tmp_path / "t.csv", "s,l", *rows, "a dull film,Bad")
    argv = ["--table", table, "--columns", "s", "l", "--to", tmp_path / "out"]
    status, _, error = prepare(*argv, "--size-valid", 10)
    assert status == 2
    assert f"{table}, line 42: the label 'Bad' is another spelling of 'bad'" in error
    write(table, "s,l", *rows[:-1], "a fine film 4,good")
    assert prepare(*argv, "--size-valid", 10)[0] == 0
    words = ["prepare", "--encoder", toy_encoder(), *argv, "--size-valid", 9]
    assert main([str(word) for word in words]) == 0
    notes = capfd.readouterr().err
    assert "have different labels" in notes
    assert f"{table}, line 41" in notes


def test_a_quoted_tsv_is_reported(tmp_path, capfd):
    rows = [f'"a ""fine"" film {i}"\t{"ab"[i % 2]}' for i in range(12)]
    table = write(tmp_path / "t.tsv", "s\tl", *rows)
    words = ["--table", table, "--columns", "s", "l", "--to", tmp_path / "out"]
    words += ["--size-valid", 3, "--max-unknown", 0.5, "--encoder", toy_encoder()]
    assert main(["prepare", *map(str, words)]) == 0
    assert f"{table} is read with CSV quoting" in capfd.readouterr().err


def test_what_all_folders_share_is_noted_once(tmp_path, capfd):
    rows = [f"a fine film {i % 10}\t{'ab'[i % 2]}" for i in range(40)]
    table = write(tmp_path / "t.tsv", "s\tl", *rows)
    words = ["--table", table, "--columns", "s", "l", "--to", tmp_path / "out"]
    words += ["--size-valid", 8, "--few-shot", 8, "--samples", 2]
    assert main(["prepare", *map(str, words), "--encoder", str(toy_encoder())]) == 0
    notes = capfd.readouterr().err
    assert notes.count("texts in test also occur in valid") == 1
    for name in ("n8-sample0", "n8-sample1"):
        assert f"texts in test also occur in train of {name}" in notes


@pytest.mark.parametrize(("rows", "size"), [(30, 6), (9, 2), (7, 1)])
def test_a_small_table_says_what_is_possible(prepare, refused, tmp_path, rows, size):
    lines = [f"a fine film {i},{'good' if i % 2 else 'bad'}" for i in range(rows)]
    table = write(tmp_path / "t.csv", "s,l", *lines)
    argv = ["--table", table, "--columns", "s", "l", "--to", tmp_path / "out"]
    error = refused(*argv)
    assert f"{table} has {rows} rows: --size-test and --size-valid (500 each" in error
    assert "--text" in error
    if size > 1:
        assert f"use {size} and {size}, or" in error
        assert prepare(*argv, "--size-test", size, "--size-valid", size)[0] == 0


def test_download_refuses_an_unknown_task_before_it_fetches(refusal, tmp_path):
    error = refusal("download", "--task", "SST-2", "SST", "--to", tmp_path / "glue")
    assert "there is no task 'SST': choose from SST-2" in error
    assert not (tmp_path / "glue").exists()

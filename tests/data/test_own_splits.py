"""Folders of text files: what is not read is named, what is missing is refused."""

import json

import pytest

from fairseq_scl.cli import main
from fairseq_scl.data.binarize import MANIFEST
from fairseq_scl.data.texts import Example
from helpers.encoders import make_pairs, make_splits, toy_encoder
from helpers.texts import write_split


@pytest.fixture
def prepare(tmp_path, capfd):
    """Write splits and change the folder; return status and lines of the command."""

    def call(change=lambda folder: None, splits=None, *more):
        folder = tmp_path / "text"
        for split, examples in (splits or make_splits()).items():
            write_split(folder, split, examples)
        change(folder)
        argv = ["prepare", "--text", folder, "--encoder", toy_encoder()]
        status = main([str(w) for w in [*argv, "--to", tmp_path / "data", *more]])
        printed = capfd.readouterr()
        return status, printed.out, printed.err

    return call


def rename(folder, old, new):
    for file in folder.glob(f"{old}.*"):
        file.rename(folder / f"{new}{file.suffix}")


def test_files_that_are_not_read_are_named(prepare):
    def change(folder):
        rename(folder, "valid", "dev")
        for name in ("README", "train.input0.bak", "train.input2", "Test.label"):
            (folder / name).write_text("x\n")

    status, out, notes = prepare(change)
    assert status == 0
    assert "16 train, 8 test" in out
    assert "README, Test.label, dev.input0, dev.label, train.input0.bak, and " in notes
    assert "lacks valid.input0" in notes


def test_an_ordinary_folder_gives_no_warnings(prepare):
    status, out, notes = prepare(lambda folder: (folder / ".git").mkdir())
    assert status == 0
    assert "unknown tokens: 0.00% train, 0.00% valid, 0.00% test\n" in out
    assert "note" not in notes


def without(name):
    return lambda folder: (folder / name).unlink()


def one_file_for_two_splits(folder):
    for part in ("input0", "label"):
        (folder / f"test.{part}").unlink()
        (folder / f"test.{part}").symlink_to(f"valid.{part}")


def nul(folder):
    text = (folder / "valid.input0").read_text("utf-8")
    (folder / "valid.input0").write_text(text.replace("\n", "\0\n", 1), "utf-8")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("valid.input0"), ["valid.input0, to go with valid.label"]),
        (without("valid.label"), ["valid.label, to go with valid.input0"]),
        (without("test.label"), ["test.label, to go with test.input0"]),
        (without("train.label"), ["train.label, to go with train.input0"]),
        (
            lambda folder: rename(folder, "train", "training"),
            ["train.input0; the folder has ", "training.input0"],
        ),
        (one_file_for_two_splits, ["the same examples in valid and test"]),
        (nul, ["valid.input0, line 1 has a NUL character"]),
    ],
)
def test_damaged_folders_are_refused(prepare, change, words):
    status, _, error = prepare(change)
    assert status == 2
    assert all(word in error for word in words), error


def test_a_pair_without_first_sentences_is_refused(prepare):
    status, _, error = prepare(without("test.input0"), make_splits(make_pairs))
    assert status == 2
    assert "test.input0, to go with test.input1" in error


def test_shared_texts_and_two_labels_are_noted(prepare):
    splits = make_splits()
    (text,) = splits["train"][3].sentences
    other = splits["train"][2].label
    splits["test"][1] = Example((text,), other)
    status, _, notes = prepare(splits=splits)
    assert status == 0
    assert "1 of the 8 texts in test also occur in train" in notes
    assert "train.input0, line 4 and" in notes
    assert "test.input0, line 2" in notes


def with_unknown(count, split):
    splits = make_splits()
    for n in range(count):
        label = splits[split][n].label
        splits[split][n] = Example((f"привет мир {'!' * n}",), label)
    return splits


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_text_of_another_language_needs_a_flag(prepare, tmp_path, split):
    splits = with_unknown(8, split)
    status, _, error = prepare(lambda _: None, splits)
    assert status == 2
    assert f"% of the tokens of {split} (" in error
    assert "at most 10.0% may be: use an encoder" in error
    assert "only 'fairseq-scl prepare' allows more, with --max-unknown" in error
    assert not (tmp_path / "data").exists()
    status, out, notes = prepare(lambda _: None, splits, "--max-unknown", "1")
    assert status == 0
    assert f"{split} of {tmp_path / 'data'} has 8 sentences without any known" in notes
    counts = json.loads((tmp_path / "data" / MANIFEST).read_text("utf-8"))["unknown"]
    assert counts[split]["sentences"] == 8
    share = counts[split]["unknown"] / counts[split]["tokens"]
    assert f"{share:.2%} {split}" in out


def test_unknown_tokens_of_both_sentences_are_counted(prepare, tmp_path):
    splits = make_splits(make_pairs)
    texts = ("a good film", "a б в")
    splits["test"] = [Example(texts, splits["test"][0].label)]
    status, out, _ = prepare(lambda _: None, splits, "--max-unknown", "0.4")
    assert status == 0
    counts = json.loads((tmp_path / "data" / MANIFEST).read_text("utf-8"))["unknown"]
    assert counts["test"] == {"tokens": 6, "unknown": 2, "sentences": 0}
    assert "33.33% test" in out


@pytest.mark.parametrize("value", ["-0.1", "1.1", "nan"])
def test_a_share_that_cannot_be_is_refused(prepare, value):
    status, _, error = prepare(lambda _: None, None, f"--max-unknown={value}")
    assert status == 2
    assert f"--max-unknown is {value}" in error

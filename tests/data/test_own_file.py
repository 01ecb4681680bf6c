"""Tables of labeled texts: columns by their names, distinct texts, a split of them."""

import csv
import json
from collections import Counter

import hypothesis
import pytest
from hypothesis import strategies as st

from fairseq_scl.data.own_file import (
    LEAST_EXAMPLES,
    guess_columns,
    read_distinct,
    split_off_validation,
)
from fairseq_scl.data.suspects import Checks
from fairseq_scl.data.texts import Example
from fairseq_scl.errors import InputError
from helpers.refusals import refused

COLUMNS = ("text", "label")


def write_csv(path, rows, names=COLUMNS):
    delimiter = "\t" if path.suffix == ".tsv" else ","
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([names, *rows])
    return path


def rows_of(count, labels=("no", "yes")):
    return [(f"text {n}", labels[n % len(labels)]) for n in range(count)]


def read(path, drop_empty=False, any_labels=False):
    """Return the examples and the notes."""
    notes = []
    checks = Checks(any_labels=any_labels, note=notes.append)
    return read_distinct(path, COLUMNS, drop_empty, checks), notes


def test_a_jsonl_of_white_space_has_no_rows(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("\n  \n", "utf-8")
    with refused(path, "has no rows"):
        guess_columns(path)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["id", "Text", "LABEL"], ["Text", "LABEL"]),
        (["sentiment", "review"], ["review", "sentiment"]),
        (["sentence1", "sentence2", "label"], ["sentence1", "sentence2", "label"]),
        (["premise", "hypothesis", "text", "y"], ["premise", "hypothesis", "y"]),
        (["question", "sentence", "label"], ["question", "sentence", "label"]),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_columns_are_found_by_their_usual_names(tmp_path, suffix, names, expected):
    path = tmp_path / f"it's a file{suffix}"
    if suffix == ".jsonl":
        path.write_text(json.dumps(dict.fromkeys(names, "x")) + "\n", "utf-8")
    else:
        write_csv(path, [], names)
    assert guess_columns(path) == expected


@pytest.mark.parametrize(
    "names",
    [
        *(["a", "b"], ["text", "review", "label"], ["text"]),
        *(["text", "label", "class"], ["text", "Text", "label"]),
        ["text", "label", "label "],
    ],
)
def test_other_columns_are_listed_and_asked_for(tmp_path, names):
    path = write_csv(tmp_path / "a.csv", [], names)
    with refused(path, *map(repr, names), "--columns TEXT LABEL"):
        guess_columns(path)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"text;label\na;b\n", "separated by ';'"),
        ("text,label\na,b\n".encode("utf-16-le"), "line 1: a column name has a NUL"),
    ],
)
def test_the_cause_of_unreadable_columns_is_named(tmp_path, content, named):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with refused(path, named):
        guess_columns(path)


def test_quotes_commas_line_breaks_and_any_labels_are_read(tmp_path):
    labels = ["true", "1", "très bien", "a/b", "with spaces"]
    rows = [(f'a "quoted", text\nof {n} lines', labels[n % 5]) for n in range(30)]
    examples, notes = read(write_csv(tmp_path / "a.csv", rows))
    assert notes == []
    again, notes = read(write_csv(tmp_path / "a.tsv", rows))
    assert notes == [
        f"{tmp_path / 'a.tsv'} is read with CSV quoting, as written by pandas"
    ]
    assert [e.sentences for e in again] == [e.sentences for e in examples]
    assert [e.label for e in examples] == [label for _, label in rows]
    assert examples[1].sentences == ('a "quoted", text of 1 lines',)


def test_two_hundred_classes_are_read(tmp_path):
    names = [f"class {n}" for n in range(200)]
    examples, _ = read(write_csv(tmp_path / "a.csv", rows_of(800, names)))
    train, valid = split_off_validation(examples, 0, Checks())
    assert {e.label for e in train} == {e.label for e in valid} == set(names)


def test_texts_that_repeat_count_once_and_are_counted(tmp_path):
    rows = [*rows_of(30), *[("text  0", "no")] * 3, ("text 1", "no")]
    path = write_csv(tmp_path / "a.csv", rows)
    examples, notes = read(path)
    assert [(*e.sentences, e.label) for e in examples] == rows_of(30)
    assert len(notes) == 1
    for words in ("4 rows", "1 of them have another label", f"{path}, line 35"):
        assert words in notes[0]


def test_empty_cells_are_refused_by_line_or_dropped(tmp_path):
    rows = [*rows_of(30), ("", "no"), ("a text", " ")]
    for number in (30, 31):
        path = write_csv(tmp_path / "a.csv", [*rows_of(30), rows[number]])
        with refused(path, "line 32"):
            read(path)
    examples, notes = read(write_csv(tmp_path / "a.csv", rows), drop_empty=True)
    assert len(examples) == 30
    assert len(notes) == 2
    assert all("skipped: 1 rows" in note for note in notes)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], ["no rows"]),
        (rows_of(3), ["is 3", LEAST_EXAMPLES]),
        (rows_of(30, ["same"]), ["only one label", "'same'"]),
        ([("equal", "no"), ("equal", "yes")] * 20, ["is 1", LEAST_EXAMPLES]),
        (rows_of(30, ["1.5", "2.5", "4"]), ["'1.5'", "--labels-are-classes"]),
        (rows_of(30, [str(n) for n in range(20)]), ["one of 20 labels"]),
    ],
)
def test_a_table_that_cannot_be_learned_is_refused(tmp_path, rows, words):
    path = write_csv(tmp_path / "a.csv", rows)
    with refused(path, *words):
        read(path)


@hypothesis.given(
    counts=st.lists(st.integers(1, 40), min_size=2, max_size=8).filter(
        lambda counts: sorted(counts)[-2] >= 3
    ),
    seed=st.integers(0, 5),
)
def test_every_class_of_three_is_on_both_sides_and_smaller_ones_in_training(
    counts, seed
):
    examples = [
        Example((f"text {label} {n}",), f"label{label}")
        for label, count in enumerate(counts)
        for n in range(count)
    ]
    notes = []
    train, valid = split_off_validation(examples, seed, Checks(note=notes.append))
    assert sorted([*train, *valid], key=str) == sorted(examples, key=str)
    of_train, of_valid = (Counter(e.label for e in part) for part in (train, valid))
    for label, count in enumerate(counts):
        wanted = max(1, round(0.2 * count)) if count >= 3 else 0
        assert of_valid[f"label{label}"] == wanted
        assert of_train[f"label{label}"] == count - wanted
    small = [f"'label{n}' ({c})" for n, c in enumerate(counts) if c < 3]
    assert len(notes) == bool(small)
    assert all(name in notes[0] for name in small[:5])
    assert split_off_validation(examples, seed, Checks()) == (train, valid)


def test_the_validation_set_of_a_large_table_stays_small():
    examples = [Example((str(n),), str(n % 2)) for n in range(20_000)]
    assert len(split_off_validation(examples, 0, Checks())[1]) == 500


@pytest.mark.parametrize(
    ("sizes", "words"), [([2] * 10, "0 of 10 classes"), ([60, 2], "1 of 2 classes")]
)
def test_validation_needs_two_classes_of_three(sizes, words):
    labels = [str(label) for label, size in enumerate(sizes) for _ in range(size)]
    examples = [Example((str(n),), label) for n, label in enumerate(labels)]
    with pytest.raises(InputError, match=f"{words} have at least 3"):
        split_off_validation(examples, 0, Checks())

"""Text files: what is read is what was written, and what is wrong is named."""

from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import given

from fairseq_scl.data.texts import (
    Example,
    check_known_labels,
    class_names,
    one_line,
    read_lines,
    read_split,
)
from helpers.refusals import refused
from helpers.texts import write_split

# Unicode's line breaks that end no line here: vertical tab, form feed, the three
# separators of ASCII, next line, line separator, paragraph separator.
EXOTIC_BREAKS = "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"


def write(folder, **columns):
    """Write ``split_column=bytes or text`` as the file ``split.column``."""
    folder.mkdir(exist_ok=True)
    for name, content in columns.items():
        raw = content if isinstance(content, bytes) else content.encode()
        (folder / name.replace("_", ".")).write_bytes(raw)
    return folder


@pytest.mark.parametrize(
    "written",
    [
        [Example(("a good film",), "positive"), Example(("bad",), "negative")],
        [Example(("a man sleeps", "a man rests"), "entailment")],
    ],
)
def test_single_sentences_and_pairs_come_back_as_written(tmp_path, written):
    write_split(tmp_path, "test", written)
    read = read_split(tmp_path, "test")
    assert [replace(example, origin="") for example in read] == written


@given(st.text(), st.sampled_from(["very good", "sehr schön", "5", "a:b|c", "#1"]))
def test_any_text_comes_back_with_its_white_space_made_one_blank(
    tmp_path_factory, text, label
):
    text = text.encode(errors="ignore").decode()  # lone surrogates are not text
    if not one_line(text):
        return
    folder = tmp_path_factory.mktemp("any")
    write_split(folder, "train", [Example((text,), label)])
    (read,) = read_split(folder, "train")
    assert read.sentences == (" ".join(text.split()),)
    assert read.label == label


@pytest.mark.parametrize("ending", ["\n", "\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("last", [True, False], ids=["ended", "last line not ended"])
def test_line_feeds_with_and_without_carriage_return_end_a_line(tmp_path, ending, last):
    text = ending.join(["one", "two"]) + (ending if last else "")
    folder = write(tmp_path / "d", train_input0=text, train_label=text)
    origin = f"{folder / 'train.label'}, line"
    assert read_split(folder, "train") == [
        Example(("one",), "one", f"{origin} 1"),
        Example(("two",), "two", f"{origin} 2"),
    ]


def test_byte_order_mark_is_not_part_of_the_first_text(tmp_path):
    folder = write(
        tmp_path / "d", train_input0=b"\xef\xbb\xbfone\n", train_label=b"\xef\xbb\xbfa"
    )
    assert read_split(folder, "train") == [
        Example(("one",), "a", f"{folder / 'train.label'}, line 1")
    ]


@pytest.mark.parametrize("character", EXOTIC_BREAKS, ids=ascii)
def test_other_line_breaks_of_unicode_stay_inside_their_line(tmp_path, character):
    folder = write(
        tmp_path / "d", train_input0=f"one{character}half\ntwo\n", train_label="a\nb\n"
    )
    assert [e.sentences for e in read_split(folder, "train")] == [
        (f"one{character}half",),
        ("two",),
    ]


@pytest.mark.parametrize("other", ["label", "input1"])
def test_files_of_different_lengths_are_refused_with_both_lengths(tmp_path, other):
    three, two = "one\ntwo\nthree\n", "a\nb"
    columns = {"input0": three, "input1": three, "label": three, other: two}
    folder = write(tmp_path, **{f"valid_{name}": t for name, t in columns.items()})
    longer = {"label": "input0 has 3", "input1": "input1 has 2"}[other]
    label = {"label": "label has 2", "input1": "label has 3"}[other]
    with refused(f"{folder}/valid.{longer} lines, but {folder}/valid.{label}"):
        read_split(folder, "valid")


@pytest.mark.parametrize("blank", ["", "   ", "\t", "\u2028"], ids=ascii)
def test_an_empty_line_is_refused_with_file_and_line(tmp_path, blank):
    path = tmp_path / "train.input0"
    path.write_text(f"one\n{blank}\nthree\n", encoding="utf-8")
    with refused(f"{path}, line 2 is empty"):
        read_lines(path)


def test_bytes_that_are_not_utf8_are_refused_with_file_line_and_byte(tmp_path):
    path = tmp_path / "train.label"
    path.write_bytes(b"one\ncaf\xe9\n")
    with refused(f"{path}, line 2 is not UTF-8 (byte 4 of the line)"):
        read_lines(path)


@pytest.mark.parametrize("name", ["train.input0", "train.label"])
def test_a_missing_or_empty_file_is_named(tmp_path, name):
    folder = write(tmp_path, train_input0="one\n", train_label="a\n")
    (folder / name).write_bytes(b"")
    with refused(f"{folder / name} is empty"):
        read_split(folder, "train")
    (folder / name).unlink()
    with refused(f"missing file: {folder / name}"):
        read_split(folder, "train")


def test_class_ids_follow_names_not_frequencies_or_order():
    assert class_names("bbbac") == ["a", "b", "c"]


RESERVED = ["<pad>", "<unk>", "<s>", "</s>", "<mask>", "madeupword0000"]
BROKEN = ["x\ry", "x\ty", "x  y", "x\u2028y", " x", ""]


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["a", "a"], ["only one label ('a'): ", "at least two"]),
        *[(["fine", r], [f"the label {r!r} is reserved by fairseq"]) for r in RESERVED],
        *[
            (["fine", b], [f"the label {b!r} must be words separated by single spaces"])
            for b in BROKEN
        ],
    ],
)
def test_labels_that_a_dictionary_cannot_hold_are_refused(labels, words):
    with refused(*words):
        class_names(labels)


def test_a_label_unseen_in_training_is_refused_with_its_place(tmp_path):
    folder = write(tmp_path / "d", valid_input0="one\ntwo\n", valid_label="a\nB\n")
    with refused(f"{folder / 'valid.label'}, line 2: the label 'B'", "'a', 'b'"):
        check_known_labels(read_split(folder, "valid"), ["a", "b"])

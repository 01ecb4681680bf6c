"""Official layouts and own tables: quirks are read, damage is named."""

import json
from collections import Counter

import pytest

from fairseq_scl.data.official_files import check_size, task_table
from fairseq_scl.data.readers import NO_LABEL, NO_TEXT, QUOTED_TSV, own_table
from fairseq_scl.data.tasks import HELD_OUT, TASKS, TRAIN
from fairseq_scl.data.texts import Example
from fairseq_scl.errors import InputError
from fairseq_scl.inference.inputs import rows as predicted
from helpers.refusals import refused
from helpers.tasks import MNLI_COLUMNS, MRPC_COLUMNS, mnli_row, write


def rows_of(name, folder, part=TRAIN):
    return [
        (line, *example.sentences, example.label)
        for line, example in task_table(TASKS[name], folder, part)
    ]


FIRST = '1\t7\t8\t" Never , " he said .\t" Never .'
LAYOUTS = {
    "SST-2": (
        ["sentence\tlabel", "it 's good \t1", "bad \t0"],
        [(2, "it 's good", "positive"), (3, "bad", "negative")],
    ),
    "CoLA": (  # has no header
        ["gj04\t1\t\tHe left.", "gj04\t0\t*\tLeft he."],
        [(1, "He left.", "acceptable"), (2, "Left he.", "unacceptable")],
    ),
    "MRPC": (  # has a byte-order mark and unbalanced quotes
        [MRPC_COLUMNS, FIRST, '0\t9\t10\t"\t\' "" x'],
        [
            (2, '" Never , " he said .', '" Never .', "equivalent"),
            (3, '"', '\' "" x', "not_equivalent"),
        ],
    ),
    "RTE": (
        ["index\tsentence1\tsentence2\tlabel", "0\tis it ?\tit is\tnot_entailment"],
        [(2, "is it ?", "it is", "not_entailment")],
    ),
    "QNLI": (
        ["index\tquestion\tsentence\tlabel", "0\tis it ?\tit is\tnot_entailment"],
        [(2, "is it ?", "it is", "not_entailment")],
    ),
    "Amazon-2": (  # is title and text
        ['"2","Great","I read it."', '"1","","No, no."'],
        [(1, "Great I read it.", "positive"), (2, "No, no.", "negative")],
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_official_files_are_read_as_they_are(tmp_path, name):
    lines, rows = LAYOUTS[name]
    write(tmp_path / TASKS[name].folder / TASKS[name].files[TRAIN], *lines)
    assert rows_of(name, tmp_path) == rows


def test_the_folder_of_the_task_itself_will_do(tmp_path):
    write(tmp_path / "dev.tsv", "sentence\tlabel", "good\t1", end="")
    assert rows_of("SST-2", tmp_path, HELD_OUT) == [(2, "good", "positive")]


def test_mrpc_as_published_is_split_by_the_id_list(tmp_path):
    rows = ["1\t7\t8\ta\tb\r", "0\t9\t10\tc\td\r", "1\t8\t7\te\tf\r"]
    write(tmp_path / "msr_paraphrase_train.txt", MRPC_COLUMNS + "\r", *rows)
    write(tmp_path / "mrpc_dev_ids.tsv", "9\t10", "8\t7")
    assert rows_of("MRPC", tmp_path, TRAIN) == [(2, "a", "b", "equivalent")]
    assert [row[0] for row in rows_of("MRPC", tmp_path, HELD_OUT)] == [3, 4]


def test_mnli_has_twelve_columns_or_sixteen_and_rows_without_a_label(tmp_path):
    train = [mnli_row(0, "a", "b", "neutral"), mnli_row(1, "c", "d", "-")]
    dev = [mnli_row(0, 'e "', "f", "contradiction", dev=True)]
    labels = "label2\tlabel3\tlabel4\tlabel5\t"
    write(tmp_path / "MNLI/train.tsv", MNLI_COLUMNS + "gold_label", *train)
    write(tmp_path / "MNLI/dev_matched.tsv", MNLI_COLUMNS + labels + "gold_label", *dev)
    table = task_table(TASKS["MNLI"], tmp_path, TRAIN)
    for _ in range(2):  # counts are those of one pass
        assert [(line, e.label) for line, e in table] == [(2, "neutral")]
        assert table.left_out == {NO_LABEL: 1}
    assert rows_of("MNLI", tmp_path, HELD_OUT) == [(2, 'e "', "f", "contradiction")]


def test_reviews_are_quoted_csv_with_escapes(tmp_path):
    write(
        tmp_path / "yelp_review_polarity_csv/train.csv",
        '"1","The ""worst"", ever.\\n\\nNever \\""again\\""."',
        '"2","a\\\\b, c"',
        '"2"," "',
    )
    table = task_table(TASKS["Yelp-2"], tmp_path, TRAIN)
    assert [(line, e.sentences[0], e.label) for line, e in table] == [
        (1, 'The "worst", ever. Never "again".', "negative"),
        (2, "a\\\\b, c", "positive"),
    ]
    assert table.left_out == {NO_TEXT: 1}


HEADER = b"sentence\tlabel\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"text\tlabel\na\t1\n", "line 1: there is no column 'sentence', only 'text'"),
        (HEADER + b"a\t1\nb\n", "line 3 has 1 column, expected 2 (sentence"),
        (HEADER + b"a\tb\t1\n", "line 2 has 3 columns, expected 2 (sentence"),
        (HEADER + b"a\t2\n", "line 2: the label is '2', allowed: 0, 1"),
        (HEADER + b"a\t\n", "line 2: the label is '', allowed: 0, 1"),
        (HEADER + b" \t1\n", "line 2: column sentence is empty"),
        (HEADER + b"caf\xe9\t1\n", "line 2 is not UTF-8 (byte 4 of the line)"),
        (b"", "train.tsv is empty"),
    ],
)
def test_a_damaged_file_is_refused_with_the_line(tmp_path, content, message):
    path = tmp_path / "train.tsv"
    path.write_bytes(content)
    with refused(path, message):
        list(task_table(TASKS["SST-2"], tmp_path, TRAIN))


def test_a_missing_file_is_refused_with_the_places_and_the_command(tmp_path):
    with refused(f"there is no dev.tsv of RTE in {tmp_path / 'RTE'} or {tmp_path}"):
        task_table(TASKS["RTE"], tmp_path, HELD_OUT)


def test_a_truncated_csv_is_refused_with_the_line(tmp_path):
    folder = tmp_path / "yelp_review_polarity_csv"
    write(folder / "train.csv", '"1","good"', '"2","cut of', end="")
    with refused("train.csv, line 2 is not a row of quoted CSV"):
        list(task_table(TASKS["Yelp-2"], tmp_path, TRAIN))


def test_another_number_of_rows_is_refused(tmp_path):
    write(tmp_path / "train.tsv", "sentence\tlabel", "a\t1")
    table = task_table(TASKS["SST-2"], tmp_path, TRAIN)
    check_size(TASKS["SST-2"], TRAIN, table, 67_349)
    with pytest.raises(InputError, match=r"has 1 rows, but SST-2 has 67,349: download"):
        check_size(TASKS["SST-2"], TRAIN, table, 1)


def own_rows(path, *columns):
    return [(n, *e.sentences, e.label) for n, e in own_table(path, columns)]


def test_own_tables_are_read_by_the_names_of_their_columns(tmp_path):
    want = [(2, 'a "b', "c, d", "x"), (3, "e", "f", "1")]
    rows = [{"s": 'a "b', "t": "c, d", "l": "x"}, {"t": "f", "l": 1, "s": " e "}]
    path = write(tmp_path / "t.tsv", "l\ts\tt", 'x\ta "b\tc, d', "1\te\tf")
    assert own_rows(path, "s", "t", "l") == want
    path = write(tmp_path / "t.csv", "l,s,t", 'x,"a ""b","c, d"', "1,e,f")
    assert own_rows(path, "s", "t", "l") == want
    path = write(tmp_path / "t.jsonl", *map(json.dumps, rows))
    assert own_rows(path, "s", "t", "l") == [(n - 1, *rest) for n, *rest in want]
    assert own_rows(path, "t", "l") == [(1, "c, d", "x"), (2, "f", "1")]


def test_a_csv_row_of_several_lines_is_named_by_its_first_line(tmp_path):
    path = write(tmp_path / "t.csv", "s,l", '"a', 'b",x', "", "c,y")
    assert own_rows(path, "s", "l") == [(2, "a b", "x"), (5, "c", "y")]


@pytest.mark.parametrize("blank", ["", "  ", "\t"], ids=ascii)
@pytest.mark.parametrize(
    ("suffix", "rows"),
    [
        ("csv", ["s,l", "a,x", "b,y"]),
        ("tsv", ["s\tl", "a\tx", "b\ty"]),
        ("tsv", ["s\tl", '"a"\tx', '"b"\ty']),
        ("jsonl", ['{"s": "a", "l": "x"}', '{"s": "b", "l": "y"}']),
    ],
)
def test_lines_of_white_space_are_no_rows(tmp_path, suffix, rows, blank):
    """Prediction reads the same rows."""
    *start, last = rows
    path = write(tmp_path / f"t.{suffix}", *start, blank, last, blank)
    count = len(rows)
    assert own_rows(path, "s", "l") == [(count - 1, "a", "x"), (count + 1, "b", "y")]
    kind = QUOTED_TSV if suffix == "tsv" and '"' in last else suffix
    with path.open("rb") as stream:
        read = [row for row in predicted(stream, Counter(), False, ["s"], kind) if row]
    assert [(row.number, row.sentences) for row in read] == [
        (count - 1, ("a",)),
        (count + 1, ("b",)),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 is not JSON: "),
        ("[1]", "line 2 is not a JSON object with names and values"),
        ('{"s": "a"}', "line 2: there is no column 'l', only 's'"),
        ('{"s": null, "l": "x"}', "line 2: s is None, expected text"),
        ('{"s": "a", "l": NaN}', "line 2: the label in column 'l' is nan, but it must"),
        ('{"s": "a", "l": ["x"]}', "line 2: the label in column 'l' is ['x'], but it"),
        ('{"s": "a", "l": null}', "line 2: the label in column 'l' is None, but it"),
        ('{"s": "a", "l": "x"}\r{', "line 2 has a carriage return (CR) inside"),
        (
            '{"s": "a", "l": "x", "s": "b"}',
            "line 2 is not JSON: the name 's' occurs tw",
        ),
        ('{"s": "a\\u0000b", "l": "x"}', "line 2: s has a NUL character"),
        ('{"s": ' + 200_000 * "[", "line 2 is not JSON: too deeply nested"),
        ('{"s": "\\ud83d", "l": "x"}', "line 2: s has an unpaired surrogate"),
        ('{"s": "", "l": "x"}', "line 2: column s is empty"),
        ('{"s": "a", "l": " "}', "line 2: the label is '', allowed: any text"),
    ],
)
def test_damaged_json_lines_are_refused(tmp_path, line, message):
    path = write(tmp_path / "t.jsonl", '{"s": "a", "l": true}', line)
    with refused(f"{path}, {message}"):
        list(own_table(path, ["s", "l"]))


def test_a_number_is_the_same_label_in_json_and_in_csv(tmp_path):
    labels = ("1", "1.0", "0.5", "1e+16", "true")
    lines = [f'{{"s": "a", "l": {label}}}' for label in labels]
    json_lines = own_rows(write(tmp_path / "t.jsonl", *lines), "s", "l")
    plain = write(tmp_path / "t.csv", "s,l", *(f"a,{label}" for label in labels))
    assert [row[1:] for row in json_lines] == [r[1:] for r in own_rows(plain, "s", "l")]


@pytest.mark.parametrize(
    ("name", "columns", "words"),
    [
        ("x.txt", ["s", "l"], "x.txt has the suffix '.txt', which does"),
        ("x.tsv", ["s"], "--columns has 1 name (s): name one or"),
    ],
)
def test_other_suffixes_and_columns_are_refused(tmp_path, name, columns, words):
    (tmp_path / name).touch()
    with refused(words):
        own_table(tmp_path / name, columns)


def test_a_name_that_is_mistyped_is_not_a_format(tmp_path):
    with refused("there is no file or folder", tmp_path / "mistyped"):
        own_table(tmp_path / "mistyped", ["s", "l"])


# As pandas writes them: quotes only where a field needs them.
PANDAS = [
    (["s\tl", '"a ""good"" film"\tx', "fine\ty"], ('a "good" film', "fine")),
    (["s\tl", '"tab\there"\tx', "fine\ty"], ("tab here", "fine")),
    (["s\tl", '"two', 'lines"\tx', "fine\ty"], ("two lines", "fine")),
    (['"s"\t"l"', '"a film"\t"x"', '"fine"\t"y"'], ("a film", "fine")),
    (["s\tl", '"a film"\tx', '"fine"\ty'], ("a film", "fine")),
]
# A quote is a character like any other.
PLAIN = [
    ["s\tl", '"a ""good"" film"\tx', 'so "fine"\ty'],
    ["s\tl", '"\' "" x\tx', '"a ""b"""\ty'],
    ["s\tl", '"Never\tx', 'he said"\ty'],
    ["s\tl", '"good"\tx', "fine\ty"],
    ["s\tl", '"good ""\tx', "fine\ty"],
]


@pytest.mark.parametrize(("lines", "texts"), PANDAS)
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_tsv_that_is_quoted_throughout_is_read_as_csv(tmp_path, lines, texts, mark):
    path = write(tmp_path / "t.tsv", mark + lines[0], *lines[1:], "")
    assert [row[1] for row in own_rows(path, "s", "l")] == list(texts)


@pytest.mark.parametrize("lines", PLAIN)
def test_quotes_of_any_other_tsv_are_characters(tmp_path, lines):
    path = write(tmp_path / "t.tsv", *lines)
    found = own_rows(path, "s", "l")
    assert [f"{text}\t{label}" for _, text, label in found] == lines[1:]


CUT_QUOTE = 's\tl\n"two\nlines"\tx\na "b" c\ty\n'
OLD_MAC = "line 1 has a carriage return (CR) inside; LF or CRLF"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("t.csv", "s;l\na;x\n", "line 1: ; separated by ';'"),
        ("t.tsv", "s,l\na,x\n", "line 1: ; separated by ','"),
        ("t.csv", "good,x\n", "line 1: ; the first line must name the columns"),
        ("t.csv", "s,l,s\na,x,b\n", "line 1: 2 columns are named 's'"),
        ("t.tsv", "l\to\tl\ts\n", "line 1: 2 columns are named 'l'"),
        ("t.tsv", "a\0\tb\n", "line 1: a column name has a NUL character"),
        ("t.csv", "s,l\na,x\nb\0,y\n", "line 3: s has a NUL character"),
        ("t.tsv", "s\tl\na\tx\nb\0\ty\n", "line 3: s has a NUL character"),
        ("t.csv", "s,l\ra,x\r", OLD_MAC),
        ("t.csv", "s,l\ra,x", OLD_MAC),
        ("t.tsv", "s\tl\ra\tx\r", OLD_MAC),
        ("t.tsv", CUT_QUOTE, "line 2 has 1 column, expected 2; ends inside a quote"),
    ],
)
def test_a_damaged_own_table_is_refused_with_the_line(tmp_path, name, content, words):
    path = tmp_path / name
    path.write_bytes(content.encode())
    first, *more = words.split("; ")
    with refused(f"{path}, {first}", *more):
        list(own_table(path, ["s", "l"]))


def test_a_missing_own_table_is_named(tmp_path):
    path = tmp_path / "none.csv"
    with refused(f"missing file: {path}"):
        list(own_table(path, ["s", "l"]))
    path.mkdir()
    with refused(f"{path} is a folder: give a file"):
        list(own_table(path, ["s", "l"]))


def every_row(path, columns):
    table = own_table(path, columns, keep_all=True)
    return [example for _, example in table], table.left_out


def test_every_row_of_a_table_is_kept(tmp_path):
    rows = ["text\tlabel", "a b\tx", " \ty", "a\tx", "\U0001f600\ty"]
    path = write(tmp_path / "own.tsv", *rows)
    with path.open("ab") as file:
        file.write(b"caf\xe9 b\tx\n")
    examples, notes = every_row(path, ["text", "label"])
    texts = [example.sentences for example in examples]
    assert texts == [("a b",), ("",), ("a",), ("\U0001f600",), ("caf\ufffd b",)]
    assert [example.label for example in examples] == ["x", "y", "x", "y", "x"]
    assert examples[4] == Example(("caf\ufffd b",), "x", f"{path}, line 6")
    assert notes == {"not UTF-8": 1, "without a text": 1}


def test_pairs_of_a_table_are_kept(tmp_path):
    rows = [{"a": "one", "b": "", "y": 1}, {"a": "", "b": " two  words ", "y": 0}]
    path = write(tmp_path / "own.jsonl", *map(json.dumps, rows))
    examples, notes = every_row(path, ["a", "b", "y"])
    found = [example.sentences for example in examples]
    assert found == [("one", ""), ("", "two words")]
    assert notes == {"without a text": 2}


def test_an_empty_label_of_a_table_names_the_file(tmp_path):
    path = write(tmp_path / "own.tsv", "text\tlabel", "a\tx", "b\t")
    with refused(f"{path}, line 3: the label is ''"):
        every_row(path, ["text", "label"])

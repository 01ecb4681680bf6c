"""Reading again what was drawn, and tables of which no row may be lost."""

import json

import pytest

from fairseq_scl.data.drawn import (
    digest,
    line_numbers,
    line_ranges,
    read_drawn,
    read_every_row,
)
from fairseq_scl.data.samples import Draw, Source, prepare_samples
from fairseq_scl.data.tasks import TASKS
from fairseq_scl.data.texts import Example
from fairseq_scl.errors import InputError
from helpers.encoders import toy_encoder
from helpers.tasks import mnli_row, write, write_sst2


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The official files of SST-2 and samples of them."""
    folder = tmp_path_factory.mktemp("drawn")
    source = Source.of_task(TASKS["SST-2"], write_sst2(folder / "glue"))
    draw = Draw(few_shot=(12,), full=True, samples=2, size_valid=5, partial=True)
    prepare_samples(source, toy_encoder(), folder / "data", draw, lambda *_: None)
    return folder


@pytest.mark.parametrize("sample", ["n12-sample0", "n12-sample1", "full"])
def test_the_examples_of_a_sample_are_read_again(prepared, sample):
    examples = read_drawn(prepared / "data" / sample, prepared / "glue")
    draw = json.loads((prepared / "data" / sample / "draw.json").read_text())
    assert digest(examples) == draw["splits"]["train"]["sha256"]
    assert len(examples) == (60 if sample == "full" else 12)
    assert examples[0].sentences[0].endswith("a fine film")
    assert examples[0].origin.endswith(f"line {min(lines(draw))}")
    assert {example.label for example in examples} == {"negative", "positive"}


def lines(draw):
    return line_numbers(draw["splits"]["train"]["lines"])


def test_another_file_is_refused(prepared, tmp_path):
    write_sst2(tmp_path, train=61)
    with pytest.raises(InputError, match=r"train\.tsv is not the file that .*n12-samp"):
        read_drawn(prepared / "data" / "n12-sample0", tmp_path)


def test_a_folder_that_tells_nothing_is_refused(prepared, tmp_path):
    with pytest.raises(InputError, match=r"missing file: .*draw\.json"):
        read_drawn(tmp_path, prepared / "glue")
    (tmp_path / "draw.json").write_text('{"source": "SST-2"}')
    with pytest.raises(InputError, match=r"draw\.json: schema is None"):
        read_drawn(tmp_path, prepared / "glue")
    draw = json.loads((prepared / "data/n12-sample0/draw.json").read_text())
    (tmp_path / "draw.json").write_text(json.dumps({**draw, "source": "own.tsv"}))
    with pytest.raises(InputError, match=r"own\.tsv, which is no task .*--table"):
        read_drawn(tmp_path, prepared / "glue")
    draw["splits"]["train"]["lines"] = "2-4"
    (tmp_path / "draw.json").write_text(json.dumps(draw))
    with pytest.raises(InputError, match="are not those that"):
        read_drawn(tmp_path, prepared / "glue")


def test_lines_are_the_reverse_of_ranges():
    for numbers in ([1], [2, 3, 4, 9], [1, 3, 5], list(range(7, 90))):
        assert line_numbers(line_ranges(numbers)) == set(numbers)


def test_every_row_of_a_table_is_kept(tmp_path):
    rows = ["text\tlabel", "a b\tx", " \ty", "a\tx", "\U0001f600\ty"]
    path = write(tmp_path / "own.tsv", *rows)
    with path.open("ab") as file:
        file.write(b"caf\xe9 b\tx\n")
    examples, notes = read_every_row(path, ["text", "label"])
    texts = [example.sentences for example in examples]
    assert texts == [("a b",), ("",), ("a",), ("\U0001f600",), ("caf\ufffd b",)]
    assert [example.label for example in examples] == ["x", "y", "x", "y", "x"]
    assert examples[4] == Example(("caf\ufffd b",), "x", f"{path}, line 6")
    assert notes == {"not UTF-8": 1, "without a text": 1}


def test_pairs_of_a_table_are_kept(tmp_path):
    rows = [{"a": "one", "b": "", "y": 1}, {"a": "", "b": " two  words ", "y": 0}]
    path = write(tmp_path / "own.jsonl", *map(json.dumps, rows))
    examples, notes = read_every_row(path, ["a", "b", "y"])
    found = [example.sentences for example in examples]
    assert found == [("one", ""), ("", "two words")]
    assert notes == {"without a text": 2}


def test_other_troubles_of_a_table_name_the_file(tmp_path):
    path = write(tmp_path / "own.tsv", "text\tlabel", "a\tx", "b\t")
    with path.open("ab") as file:
        file.write(b"\xff\tx\n")
    with pytest.raises(InputError) as error:
        read_every_row(path, ["text", "label"])
    assert str(error.value).startswith(f"{path}, line 3: the label is ''")
    with pytest.raises(InputError, match="there is no column 'other'"):
        read_every_row(path, ["other", "label"])
    with pytest.raises(InputError, match="missing file"):
        read_every_row(tmp_path / "none.tsv", ["text", "label"])


def test_pairs_of_a_task_are_read(tmp_path):
    from helpers.tasks import MNLI_COLUMNS

    kinds = ("entailment", "neutral", "contradiction")
    train = [mnli_row(i, f"p {i}", f"h {i}", kinds[i % 3]) for i in range(30)]
    dev = [mnli_row(i, f"p {i}", f"h {i}", kinds[i % 3], dev=True) for i in range(12)]
    write(tmp_path / "glue/MNLI/train.tsv", f"{MNLI_COLUMNS}gold_label", *train)
    columns = f"{MNLI_COLUMNS}label2\tlabel3\tlabel4\tlabel5\tgold_label"
    write(tmp_path / "glue/MNLI/dev_matched.tsv", columns, *dev)
    source = Source.of_task(TASKS["MNLI"], tmp_path / "glue")
    draw = Draw(few_shot=(6,), full=False, samples=1, size_valid=3, partial=True)
    prepare_samples(source, toy_encoder(), tmp_path / "data", draw, lambda *_: None)
    examples = read_drawn(tmp_path / "data/n6-sample0", tmp_path / "glue")
    assert len(examples) == 6
    for example in examples:
        first, second = example.sentences
        assert first[1:] == second[1:]

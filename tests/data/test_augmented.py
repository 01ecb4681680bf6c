"""Back-translations join a sample: the same held-out files, examples first."""

import json
import shutil

import pytest
from fairseq.data import Dictionary

from fairseq_scl.convert.huggingface import convert_encoder
from fairseq_scl.data.augmented import add_outputs
from fairseq_scl.data.binarize import (
    binarize,
    class_counts,
    encoded,
    load_dictionary,
    read_examples,
)
from fairseq_scl.data.files import read_json, sha256
from fairseq_scl.data.folders import verify
from fairseq_scl.data.tokenizers import load_tokenizer
from helpers.encoders import (
    ids_in,
    make_bert,
    make_pairs,
    make_sentences,
    make_splits,
    toy_encoder,
)
from helpers.outputs import contents, rows_of, write_outputs
from helpers.refusals import refused


def make_sample(folder, make=make_sentences):
    """Return a data folder with its draw, and its training examples."""
    name, splits = "n16-sample0", make_splits(make)
    draw = {"schema": 1, "sample": name}
    binarize(splits, toy_encoder(), folder / name, draw=lambda: draw)
    return folder / name, splits["train"]


@pytest.fixture
def sample(tmp_path):
    return make_sample(tmp_path / "it's here")


def file_of(tmp_path, examples, change=lambda rows: None, copies=3):
    rows = rows_of(examples, copies)
    change(rows)
    return write_outputs(tmp_path / "aug" / "n16-sample0-bt0.3.jsonl", rows)


def encoded_part(examples, part):
    """Return the ids of all outputs in ``input0`` or ``input1``."""
    dictionary = load_dictionary(toy_encoder() / "dict.txt")
    texts = [row[part] for row in rows_of(examples)]
    rows = encoded(texts, load_tokenizer(toy_encoder()), dictionary)
    return [row.tolist() for row in rows]


@pytest.mark.parametrize("make", [make_sentences, make_pairs])
def test_train_is_the_examples_then_the_outputs(tmp_path, make):
    folder, examples = make_sample(tmp_path, make)
    file = file_of(tmp_path, examples)
    target = tmp_path / "n16-sample0-bt0.3"
    counts = add_outputs(folder, file, toy_encoder(), target)
    assert counts == {"train": 16 * 4, "valid": 8, "test": 8}
    for number in range(len(examples[0].sentences)):
        part = f"input{number}"
        assert ids_in(target, part) == ids_in(folder, part) + encoded_part(
            examples, part
        )
    whole = [(e.sentences, e.label) for e in read_examples(target, "train")]
    assert whole[:16] == [(e.sentences, e.label) for e in examples]
    assert [sentences[0] for sentences, _ in whole[16:]] == [
        row["input0"] for row in rows_of(examples)
    ]
    labels = ids_in(folder, "label")
    assert ids_in(target, "label") == labels + [row for row in labels for _ in range(3)]
    names = class_counts(folder, "train")
    assert class_counts(target, "train") == {n: 4 * c for n, c in names.items()}
    words = Dictionary.load(str(target / "label" / "dict.txt"))
    assert all(words.count[words.index(n)] == 4 * c for n, c in names.items())


def test_held_out_files_are_the_same(sample, tmp_path):
    folder, examples = sample
    file, target = file_of(tmp_path, examples), tmp_path / "out"
    add_outputs(folder, file, toy_encoder(), target)
    for split in ("valid", "test"):
        for path in folder.glob(f"*/{split}.*"):
            assert (target / path.relative_to(folder)).samefile(path)
    found = read_json(target / "manifest.json")
    assert found["examples"] == {"train": 64, "valid": 8, "test": 8}
    verify(target)
    assert not list(target.glob("view*"))


def test_draw_json_records_what_was_added(sample, tmp_path):
    folder, examples = sample
    file, target = file_of(tmp_path, examples), tmp_path / "out"
    add_outputs(folder, file, toy_encoder(), target)
    draw = read_json(target / "draw.json")
    assert draw["sample"] == "n16-sample0"
    assert draw["augmented"] == {
        "file": file.name,
        "sha256": sha256(file),
        "sample_manifest_sha256": sha256(folder / "manifest.json"),
        "examples": 16,
        "copies": 3,
        "outputs": 48,
        "unchanged": 16,
        "as_views": False,
        "settings": {"seed": 0},
        "counts": {"outputs": 48},
    }


@pytest.mark.parametrize("make", [make_sentences, make_pairs])
def test_views_are_stored_with_the_examples(tmp_path, make):
    folder, examples = make_sample(tmp_path, make)
    target = tmp_path / "out"
    counts = add_outputs(
        folder, file_of(tmp_path, examples), toy_encoder(), target, views=True
    )
    assert counts["train"] == 16
    assert ids_in(target, "input0") == ids_in(folder, "input0")
    for copy in (0, 1):
        for number in range(len(examples[0].sentences)):
            part = f"input{number}"
            view = ids_in(target / f"view{copy}", part)
            assert view == encoded_part(examples, part)[copy::3]


def test_an_empty_output_is_kept(sample, tmp_path):
    folder, examples = sample
    file = file_of(tmp_path, examples, lambda rows: rows[1].update(input0=""))
    add_outputs(folder, file, toy_encoder(), tmp_path / "out")
    assert len(ids_in(tmp_path / "out", "input0")[17]) == 1  # </s>


def fifth(**values):
    """Change the fifth row, the second output of the second example."""
    return lambda rows: rows[4].update(values)


CHANGES = {
    "the source differs from example 1": fifth(source0="another film"),
    "line 5: the label 'negative' differs from ex": fifth(label="negative"),
    "line 5: the label 'neutral' differs from": fifth(label="neutral"),
    "it has 15 sentences, ": lambda rows: rows.__delitem__(slice(-3, None)),
    "line 5: object missing required field label": lambda rows: rows[4].pop("label"),
    "line 5: origin is 3, but must be 1 or 2: use": fifth(origin=3),
    "line 5: origin: expected int, got str, found '1'": fifth(origin="1"),
    "example 15 has 2 outputs, but the first has 3": lambda rows: rows.pop(),
    "line 5: source1 and input1 must occur": fifth(input1="x"),
    "line 5: input0: expected str, got null": fifth(input0=None),
    "line 5: input0: expected str matching regex": fifth(input0="a\0b"),
    "line 5: the number of sentences differs": fifth(source1="x", input1="x"),
}


@pytest.mark.parametrize("message", CHANGES)
def test_a_file_of_another_sample_is_refused(sample, tmp_path, message):
    folder, examples = sample
    file = file_of(tmp_path, examples, CHANGES[message])
    with refused(file, message):
        add_outputs(folder, file, toy_encoder(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_missing_and_unfit_folders_are_refused(sample, tmp_path):
    folder, examples = sample
    file, out = file_of(tmp_path, examples), tmp_path / "out"
    with refused(f"there is no data folder {tmp_path / 'none'}: create it"):
        add_outputs(tmp_path / "none", file, toy_encoder(), out)
    with refused(f"missing file: {tmp_path / 'none.jsonl'}"):
        add_outputs(folder, tmp_path / "none.jsonl", toy_encoder(), out)
    with refused("is, contains or lies in"):
        add_outputs(folder, file, toy_encoder(), folder)
    swapped = shutil.copytree(folder, tmp_path / "swapped")
    names = json.loads((swapped / "label_map.json").read_text("utf-8"))["labels"]
    (swapped / "label_map.json").write_text(json.dumps({"labels": names[::-1]}))
    with refused("swapped/label_map.json was changed"):
        add_outputs(swapped, file, toy_encoder(), out)
    other = tmp_path / "other"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "film"]
    convert_encoder(make_bert(tmp_path / "bert", pieces), other)
    with refused("prepared with another vocabulary than"):
        add_outputs(folder, file, other, out)
    shutil.rmtree(swapped / "text")
    with refused("swapped lacks text/, ", "prepare it again"):
        add_outputs(swapped, file, toy_encoder(), out)
    one = file_of(tmp_path, examples, copies=1)
    with refused("one output per example, but two views need"):
        add_outputs(folder, one, toy_encoder(), out, views=True)
    pairs, _ = make_sample(tmp_path / "pairs", make_pairs)
    with refused("it has 16 sentences, but train of ", " has 16 pairs"):
        add_outputs(pairs, file, toy_encoder(), out)
    file.write_text("\n")
    with refused(f"{file} has no rows"):
        add_outputs(folder, file, toy_encoder(), out)


@pytest.fixture
def prepare(run):
    """Run ``fairseq-scl prepare`` with the toy encoder."""
    return lambda *argv: run("prepare", "--encoder", toy_encoder(), *argv)


def test_the_command_takes_a_file_or_a_folder_of_them(sample, tmp_path, prepare):
    folder, examples = sample
    file = file_of(tmp_path, examples)
    write_outputs(file.with_name("n16-sample0-bt0.5.jsonl"), rows_of(examples, 2))
    status, out, _ = prepare(
        "--sample", folder, "--augmented", file, "--to", tmp_path / "out"
    )
    assert status == 0
    assert f"wrote {tmp_path / 'out'}: 64 train, 8 valid, 8 test" in out
    assert "flags for fairseq-train: --num-classes 2" in out
    to = folder.parent
    status, out, _ = prepare("--sample", to, "--augmented", file.parent, "--to", to)
    assert status == 0
    assert f"wrote {to / 'n16-sample0-bt0.3'}: 64 train" in out
    assert f"wrote {to / 'n16-sample0-bt0.5'}: 48 train" in out
    first, second = (
        (place / "manifest.json").read_bytes()
        for place in (tmp_path / "out", to / "n16-sample0-bt0.3")
    )
    assert first == second

    write_outputs(file, rows_of(examples, 1))
    write_outputs(file.with_name("n16-sample0-bt0.9.jsonl"), rows_of(examples[1:]))
    kept = contents(tmp_path)
    argv = ["--sample", to, "--augmented", file.parent, "--to", to]
    status, out, error = prepare(*argv)
    assert (status, "wrote" in out) == (2, False)
    assert "n16-sample0-bt0.9.jsonl was made from another sample" in error
    assert contents(tmp_path) == kept


SAMPLE, TEXT = ["--sample", "SAMPLE"], ["--text", "FOLDER"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (SAMPLE, "--sample needs --augmented"),
        ([*SAMPLE, "--augmented", "FOLDER"], "has no file NAME-bt….jsonl"),
        (
            [*SAMPLE, "--augmented", "FOLDER", "--few-shot", 8],
            "--few-shot needs --task or --table, not --sample",
        ),
        ([*TEXT, "--views"], "--views needs --sample, not --text"),
        (
            [*TEXT, "--augmented", "x"],
            "--augmented needs --sample, not --text",
        ),
    ],
)
def test_the_command_refuses_with_one_sentence(
    sample, tmp_path, prepare, words, message
):
    places = {"SAMPLE": sample[0], "FOLDER": tmp_path}
    words = [places.get(word, word) for word in words]
    status, _, error = prepare(*words, "--to", tmp_path / "out")
    assert status == 2
    assert message in error

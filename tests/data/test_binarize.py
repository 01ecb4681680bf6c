"""Data folders: what fairseq's own task reads is what the text files said."""

import json
import os
import shutil

import pytest
import torch
from fairseq.data import Dictionary
from fairseq.tasks.sentence_prediction import (
    SentencePredictionConfig,
    SentencePredictionTask,
)

from fairseq_scl.data.binarize import (
    LABEL_MAP,
    MANIFEST,
    binarize,
    fairseq_flags,
    load_dictionary,
    read_labels,
    rows_of,
    write_rows,
)
from fairseq_scl.data.files import sha256
from fairseq_scl.data.own_splits import prepare_splits
from fairseq_scl.data.suspects import Checks
from fairseq_scl.data.texts import Example
from fairseq_scl.data.tokenizers import load_tokenizer
from fairseq_scl.errors import InputError
from helpers.encoders import make_pairs, make_sentences, make_splits, toy_encoder
from helpers.outputs import contents, full_disk
from helpers.refusals import refused


def stock_task(folder, **settings):
    """Return fairseq's own task for a data folder."""
    config = SentencePredictionConfig(
        data=str(folder),
        num_classes=len(read_labels(folder)),
        init_token=0,
        no_shuffle=True,
        regression_target=False,
        classification_head_name="sentence_classification_head",
        seed=1,
        **settings,
    )
    return SentencePredictionTask.setup_task(config)


def read_back(folder, split, **settings):
    """Return symbols and label of each example, as fairseq's own task loads them."""
    task = stock_task(folder, **settings)
    data = task.load_dataset(split)
    labels = read_labels(folder)
    found = []
    for i in range(len(data)):
        ids = data[i]["net_input.src_tokens"].tolist()
        symbols = [task.source_dictionary[token] for token in ids]
        found.append((symbols, labels[data[i]["target"].item()]))
    return found


def skewed(rare, common):
    """99 sentences of one label and one of another, in both splits."""
    texts = [e.sentences for e in make_sentences(200)]
    examples = [
        Example(text, rare if i % 100 == 17 else common) for i, text in enumerate(texts)
    ]
    return {"train": examples[:100], "valid": examples[100:]}


@pytest.mark.parametrize("make", [make_sentences, make_pairs])
def test_fairseq_reads_the_symbols_and_labels(tmp_path, make):
    splits = make_splits(make)
    counts = binarize(splits, toy_encoder(), tmp_path / "data")
    assert counts == {"train": 16, "valid": 8, "test": 8}
    encode = load_tokenizer(toy_encoder()).encode_lines
    for split, examples in splits.items():
        expected = []
        for example in examples:
            symbols = ["<s>"]
            for pieces in encode(example.sentences):
                symbols += [*pieces, "</s>"]
            expected.append((symbols, example.label))
        assert read_back(tmp_path / "data", split) == expected


def test_flags_have_the_classes_and_the_separator_of_pairs(tmp_path):
    binarize(make_splits(make_pairs), toy_encoder(), tmp_path / "bert")
    assert fairseq_flags(tmp_path / "bert") == [
        *["--num-classes", "3", "--init-token", "0"]
    ]
    encoder = shutil.copytree(toy_encoder(), tmp_path / "encoder")
    settings = json.loads((encoder / "tokenizer_settings.json").read_text("utf-8"))
    settings["pair_separator"] = True  # as a RoBERTa has
    (encoder / "tokenizer_settings.json").write_text(json.dumps(settings), "utf-8")
    binarize(make_splits(make_pairs), encoder, tmp_path / "roberta")
    assert fairseq_flags(tmp_path / "roberta")[-2:] == ["--separator-token", "2"]
    symbols, _ = read_back(tmp_path / "roberta", "test", separator_token=2)[0]
    assert [i for i, s in enumerate(symbols) if s == "</s>"][1:-1] == [
        symbols.index("</s>") + 1
    ]
    binarize(make_splits(), encoder, tmp_path / "roberta")  # single sentences
    assert "--separator-token" not in fairseq_flags(tmp_path / "roberta")


@pytest.mark.parametrize(
    ("rare", "common"), [("a", "z"), ("z", "a"), ("10", "9"), ("B", "a")]
)
def test_class_ids_follow_names_however_skewed_the_classes(tmp_path, rare, common):
    """``fairseq-preprocess`` would give the id 0 to the frequent label."""
    splits = skewed(rare, common)
    binarize(splits, toy_encoder(), tmp_path / "data")
    assert read_labels(tmp_path / "data") == sorted([rare, common])
    for split in splits:
        read = [label for _, label in read_back(tmp_path / "data", split)]
        assert read == [e.label for e in splits[split]]
    dictionary = stock_task(tmp_path / "data").label_dictionary
    for number, label in enumerate(read_labels(tmp_path / "data")):
        assert dictionary.index(label) - dictionary.nspecial == number
        assert dictionary.count[dictionary.index(label)] == (
            99 if label == common else 1
        )


@pytest.mark.parametrize(
    "label",
    ["very good", "7", "sehr schön", "a #fairseq:overwrite", "#fairseq:x", "a 1"],
)
def test_any_label_comes_back(tmp_path, label):
    examples = make_sentences(8, labels=(label, "other"))
    binarize({"train": examples}, toy_encoder(), tmp_path / "data")
    read = [found for _, found in read_back(tmp_path / "data", "train")]
    assert read == [e.label for e in examples]


def test_the_manifest_has_counts_and_checksums_of_every_file(tmp_path):
    folder = tmp_path / "data"
    binarize(make_splits(make_pairs), toy_encoder(), folder)
    manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    assert manifest["examples"] == {"train": 16, "valid": 8, "test": 8}
    assert (manifest["pair"], manifest["pair_separator"]) == (True, False)
    found = {name: sha256(folder / name) for name in contents(folder)}
    del found[MANIFEST]
    assert manifest["sha256"] == found
    assert {"input0/train.bin", "input1/train.bin", "label/dict.txt"} <= found.keys()
    assert {LABEL_MAP, "vocab.txt"} <= found.keys()


@pytest.mark.parametrize("make", [make_sentences, make_pairs])
def test_the_text_of_a_data_folder_makes_the_same_folder(tmp_path, make):
    binarize(make_splits(make), toy_encoder(), tmp_path / "data")
    prepare_splits(tmp_path / "data/text", toy_encoder(), tmp_path / "again", Checks())
    assert contents(tmp_path / "again") == contents(tmp_path / "data")


def test_a_replaced_data_folder_has_only_the_new_files(tmp_path):
    binarize(make_splits(make_pairs), toy_encoder(), tmp_path / "data")
    binarize(make_splits(), toy_encoder(), tmp_path / "data")
    binarize(make_splits(), toy_encoder(), tmp_path / "other")
    assert contents(tmp_path / "data") == contents(tmp_path / "other")
    assert sorted(os.listdir(tmp_path)) == ["data", "other"]


def test_bad_input_and_a_full_disk_leave_the_older_folder_as_it_was(tmp_path):
    splits = make_splits()
    binarize(splits, toy_encoder(), tmp_path / "data")
    before = contents(tmp_path / "data")
    with full_disk(300), refused("cannot write ", "File too large"):
        binarize(make_splits(make_pairs), toy_encoder(), tmp_path / "data")
    splits["test"][3] = Example(("a film",), "unseen", "test.label, line 4")
    with refused("test.label, line 4: the label 'unseen'"):
        binarize(splits, toy_encoder(), tmp_path / "data")
    assert contents(tmp_path / "data") == before
    assert os.listdir(tmp_path) == ["data"]


def test_pairs_in_one_split_and_not_in_another_are_refused(tmp_path):
    for train, other in ((1, 2), (2, 1)):
        made = {
            1: make_sentences(8, labels=("neutral", "entailment")),
            2: make_pairs(8),
        }
        splits = {"valid": made[other], "train": made[train]}
        with refused(f"valid has {other} sentences per example, but train has {train}"):
            binarize(splits, toy_encoder(), tmp_path / "data")


@pytest.mark.parametrize("name", ["dict.txt", "vocab.txt", "tokenizer_settings.json"])
def test_an_encoder_folder_without_its_files_is_refused_by_name(tmp_path, name):
    encoder = shutil.copytree(toy_encoder(), tmp_path / "encoder")
    (encoder / name).unlink()
    with pytest.raises(InputError, match=f"(missing|has neither).*{name}"):
        binarize(make_splits(), encoder, tmp_path / "data")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    "content",
    [b"piece\n", b"a 1\na 2\n", b"caf\xe9 1\n", b"a one\n", b"a 1\n\nb 2\n"],
)
def test_a_damaged_dictionary_is_refused_by_name(tmp_path, content):
    path = tmp_path / "dict.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"^{path} is not a fairseq dictionary: "):
        load_dictionary(path)


def test_labels_of_another_folder_are_a_missing_file(tmp_path):
    with refused(f"missing file: {tmp_path / LABEL_MAP}"):
        read_labels(tmp_path)


@pytest.mark.parametrize("split", ["../train", "..", "", "train/", "nosuch", "test.x"])
def test_a_split_is_recognized_by_its_name(tmp_path, split):
    binarize(make_splits(), toy_encoder(), tmp_path / "data")
    (tmp_path / "data" / "label" / "sub").mkdir()
    with pytest.raises(InputError, match=r"is not the name of a split|missing file"):
        rows_of(tmp_path / "data", "label", split)


def test_ids_that_the_dictionary_lacks_are_refused(tmp_path):
    (tmp_path / "input0").mkdir()
    write_rows(tmp_path / "input0" / "test", [torch.IntTensor([5, 400])], 9)
    Dictionary().save(str(tmp_path / "input0" / "dict.txt"))
    with pytest.raises(InputError, match=r"test\.bin.* 400"):
        rows_of(tmp_path, "input0", "test")

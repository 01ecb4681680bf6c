"""Model folders: what they hold, and that fairseq alone can use them."""

import argparse
import json
import os
import shutil
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.models.roberta import RobertaModel

from fairseq_scl.cli import main
from fairseq_scl.compat.checkpoints import check_finite, load_checkpoint
from fairseq_scl.convert.huggingface import convert_encoder
from fairseq_scl.data.binarize import binarize
from fairseq_scl.data.texts import Example
from fairseq_scl.errors import InputError
from fairseq_scl.experiments.architecture import architecture_flags
from fairseq_scl.experiments.results_folder import BEST
from fairseq_scl.experiments.statistics import result_at_best
from fairseq_scl.inference.encoder_folder import load_encoder
from fairseq_scl.inference.model_folder import (
    export_classifier,
    export_encoder,
    load_classifier,
    plain_values,
)
from fairseq_scl.inference.predict import encode, features, probabilities
from fairseq_scl.input_format import HEAD, KEY
from helpers.encoders import (
    PIECES,
    make_bert,
    make_pairs,
    make_sentences,
    make_splits,
    scratch,
    toy_data,
    toy_encoder,
    toy_model,
    trained,
)
from helpers.fresh import run_fresh
from helpers.refusals import refused

FILES = [
    "classifier.json",
    "input0/dict.txt",
    "label/dict.txt",
    "label_map.json",
    "manifest.json",
    "model.pt",
    "tokenizer_settings.json",
    "vocab.txt",
]
PLAIN_FAIRSEQ = """
import json, pathlib, sys, torch
assert torch.load(sys.argv[1] + "/model.pt", weights_only=True)["cfg"]["bpe"]
from fairseq.models.roberta import RobertaModel
model = RobertaModel.from_pretrained(sys.argv[1]).eval()
name = "sentence_classification_head"
with torch.no_grad():
    given = [model.predict(name, torch.tensor(row)) for row in json.loads(sys.argv[2])]
bpe = {"_name": "bert", "bpe_vocab_file": sys.argv[1] + "/vocab.txt"}
model = RobertaModel.from_pretrained(sys.argv[1], bpe=bpe).eval()
texts = json.loads(sys.argv[3])
with torch.no_grad():
    encoded = [model.predict(name, model.encode(text)) for text in texts]
assert "fairseq_scl" not in sys.modules
rows = [[row.exp().tolist()[0] for row in rows] for rows in (given, encoded)]
print("ANSWER", json.dumps(rows))
"""


def files(folder):
    found = [path for path in folder.rglob("*") if path.is_file()]
    return sorted(str(path.relative_to(folder)) for path in found)


def exported(pairs=False):
    """Return the trained toy run, its checkpoint, its model folder and its record."""
    run, folder, record = trained(pairs)
    return run, folder / BEST, toy_model(pairs), record


@contextmanager
def edited(path):
    """Write a copy of the toy checkpoint whose state the block changes."""
    state = load_checkpoint(exported()[1])
    yield state
    torch.save(state, path)


def without_record(state):
    """Make a state like one of the stock task, which does not record how it reads."""
    del state["task_state"][KEY]


def held_out(pairs):
    return make_splits(make_pairs if pairs else make_sentences)["test"]


def as_trained(checkpoint, data):
    """Return the model with the task of its training, as fairseq loads them."""
    models, _, task = checkpoint_utils.load_model_ensemble_and_task(
        [str(checkpoint)], arg_overrides={"data": str(data)}
    )
    return models[0].eval(), task


def test_a_model_folder_is_complete_and_minimal():
    _, checkpoint, folder, _ = exported()
    assert files(folder) == FILES
    state = torch.load(folder / "model.pt", weights_only=True)
    assert not state["last_optimizer_state"]
    assert (folder / "model.pt").stat().st_size < 1.5 * checkpoint.stat().st_size


def test_a_model_folder_has_no_traces_of_its_machine():
    *_, folder, _ = exported()
    for name in files(folder):
        assert str(scratch()).encode() not in (folder / name).read_bytes()
    model = torch.load(folder / "model.pt", weights_only=True)["cfg"]["model"]
    assert not any(name.endswith(("_file", "_dir", "_path")) for name in model)


def test_only_plain_values_of_settings_are_kept():
    settings = argparse.Namespace(
        layers=2,
        name="x",
        ratio=0.5,
        on=True,
        no=None,
        lr=[0.1],
        data="/a",
        user_dir="b",
    )
    plain = {"layers": 2, "name": "x", "ratio": 0.5, "on": True, "no": None}
    assert plain_values(settings) == plain_values(vars(settings)) == plain


@pytest.mark.parametrize("pairs", [False, True], ids=["sentences", "pairs"])
def test_predictions_are_those_of_the_model_in_training(pairs):
    run, checkpoint, folder, record = exported(pairs)
    model, task = as_trained(checkpoint, run.data)
    assert type(model).__name__ == "RobertaBertModel"
    data = task.load_dataset("test")
    batch = data.collater([data[i] for i in range(len(data))])
    order = batch["id"].argsort()
    with torch.no_grad():
        logits, _ = model(**batch["net_input"], classification_head_name=HEAD)
    classifier = load_classifier(folder)

    examples = [e.sentences for e in held_out(pairs)]
    found = probabilities(classifier, encode(classifier, examples)[0])
    expected = torch.softmax(logits, dim=-1)[order]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert found.argmax(1).tolist() == expected.argmax(1).tolist()

    answers = [classifier.labels[i] for i in found.argmax(1)]
    correct = sum(a == e.label for a, e in zip(answers, held_out(pairs), strict=True))
    assert correct == result_at_best(record).correct


def test_features_are_those_of_the_model_in_training():
    run, checkpoint, folder, _ = exported()
    classifier = load_classifier(folder)
    trained_model, _ = as_trained(checkpoint, run.data)
    encoded = encode(classifier, [e.sentences for e in held_out(False)])[0]
    for kind in ("cls", "pooled"):
        found = features(classifier, encoded, kind)
        classifier.model, kept = trained_model, classifier.model
        expected = features(classifier, encoded, kind)
        classifier.model = kept
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("rare", "common"), [("a", "z"), ("z", "a")])
def test_predictions_have_the_label_names_however_skewed(tmp_path, rare, common):
    """99 to 1: by frequency, as ``fairseq-preprocess`` sorts, names would swap."""
    texts = [e.sentences for e in make_sentences(100)]
    train = [Example(t, rare if i == 40 else common) for i, t in enumerate(texts)]
    binarize({"train": train}, toy_encoder(), tmp_path / "data")
    checkpoint = tmp_path / "checkpoint.pt"
    projection = f"classification_heads.{HEAD}.out_proj"
    for sign, label in ((1, min(rare, common)), (-1, max(rare, common))):
        with edited(checkpoint) as state:
            without_record(state)  # which has the labels of another data folder
            state["model"][f"{projection}.weight"].zero_()
            state["model"][f"{projection}.bias"] = sign * torch.tensor([3.0, -3.0])
        _, task = as_trained(checkpoint, tmp_path / "data")
        data = task.load_dataset("train")
        batch = data.collater([data[i] for i in range(100)])
        of_class = batch["id"][batch["target"][:, 0] == int(sign < 0)]
        meant = {train[i].label for i in of_class.tolist()}
        export_classifier(checkpoint, tmp_path / "data", tmp_path / "model")
        classifier = load_classifier(tmp_path / "model")
        found = probabilities(classifier, encode(classifier, [("a film",)])[0])
        assert {classifier.labels[int(found.argmax())]} == meant == {label}


def test_fairseq_alone_loads_a_stock_model_and_computes_the_same(tmp_path):
    """No plug-in, no list of allowed classes, no network; text with fairseq's BERT."""
    with edited(tmp_path / "a.pt") as state:
        state["cfg"]["model"].layer_norm_eps = 1e-5
    folder = tmp_path / "model"
    export_classifier(tmp_path / "a.pt", toy_data(), folder)
    classifier = load_classifier(folder)
    texts = [e.sentences[0] for e in held_out(False)]
    encoded = encode(classifier, [(text,) for text in texts])[0]
    tokens = json.dumps([row.tolist() for row in encoded])
    ended = run_fresh(
        *[PLAIN_FAIRSEQ, folder, tokens, json.dumps(texts)], cwd=folder.parent
    )
    assert ended.returncode == 0, ended.stderr
    (answer,) = [s for s in ended.stdout.splitlines() if s.startswith("ANSWER ")]
    expected = probabilities(classifier, encoded)
    for rows in json.loads(answer.removeprefix("ANSWER ")):
        torch.testing.assert_close(torch.tensor(rows), expected, rtol=0, atol=1e-5)


def test_folders_have_the_trained_weights_and_train_further(tmp_path):
    run, checkpoint, folder, _ = exported()
    export_encoder(checkpoint, run.data, tmp_path / "encoder")
    trained = load_checkpoint(checkpoint)["model"]
    for place in (tmp_path / "encoder", folder):
        weights = load_checkpoint(place / "model.pt")["model"]
        assert all(torch.equal(trained[n], weight) for n, weight in weights.items())
        flags = architecture_flags(place, 40)
        assert flags[flags.index("--layer-norm-eps") + 1] == "1e-12"
    ours, encoder = load_classifier(folder), load_encoder(tmp_path / "encoder")
    rows, _ = encode(ours, [("a good film",)])
    means = [features(one, rows, "mean") for one in (ours, encoder)]
    assert torch.equal(*means)


def test_an_older_model_folder_is_replaced_and_anything_else_is_not(tmp_path):
    run, checkpoint, _, _ = exported()
    target = tmp_path / "model"
    for _ in range(2):
        export_classifier(checkpoint, run.data, target)
    assert files(target) == FILES
    encoder = tmp_path / "encoder"
    export_encoder(checkpoint, run.data, encoder)
    (encoder / "notes.txt").write_text("mine")
    for folder in (target, encoder):  # of another kind, with a file of the user
        with pytest.raises(InputError, match=f"{folder} is not replaced"):
            export_encoder(checkpoint, run.data, folder)
    assert files(target) == FILES
    assert (encoder / "notes.txt").read_text() == "mine"


def test_a_checkpoint_without_a_head_is_refused(tmp_path):
    with refused(f"{toy_encoder() / 'model.pt'} has no classification head {HEAD!r}"):
        export_classifier(toy_encoder() / "model.pt", toy_data(), tmp_path / "model")


@pytest.mark.parametrize("recorded", [True, False], ids=["our task", "stock task"])
def test_a_data_folder_of_other_training_is_refused(tmp_path, recorded):
    """Of a checkpoint of the stock task only numbers can be compared."""
    with edited(tmp_path / "a.pt") as state:
        if not recorded:
            without_record(state)
    renamed = {
        split: [replace(e, label={"positive": "ham"}.get(e.label, "a")) for e in rows]
        for split, rows in make_splits().items()
    }
    binarize(renamed, toy_encoder(), tmp_path / "renamed")
    pieces = (*PIECES[:6], "superb", *PIECES[6:])
    convert_encoder(make_bert(tmp_path / "bert", pieces), tmp_path / "encoder")
    binarize(make_splits(), tmp_path / "encoder", tmp_path / "larger")
    cases = [("larger", "input0/dict.txt"), ("renamed", "label/dict.txt")]
    for name, file in cases if recorded else cases[:1]:
        with pytest.raises(InputError, match=f"{tmp_path / name / file} .*data folder"):
            export_classifier(tmp_path / "a.pt", tmp_path / name, tmp_path / "model")
    with pytest.raises(InputError, match=r"label/dict\.txt"):
        export_classifier(tmp_path / "a.pt", toy_data(pairs=True), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_weights_that_are_not_numbers_are_refused_on_export_and_on_loading(tmp_path):
    run, _, folder, _ = exported()
    name = "encoder.sentence_encoder.layers.0.fc2.bias"
    with edited(tmp_path / "a.pt") as state:
        state["model"][name][1] = float("nan")
    for export in (export_classifier, export_encoder):
        with pytest.raises(InputError, match=rf"{tmp_path / 'a.pt'} has NaN in {name}"):
            export(tmp_path / "a.pt", run.data, tmp_path / "model")
    assert not (tmp_path / "model").exists()
    shutil.copytree(folder, tmp_path / "model")
    state = torch.load(folder / "model.pt", weights_only=True)
    state["model"][name][1] = float("inf")
    torch.save(state, tmp_path / "model" / "model.pt")
    with pytest.raises(InputError, match=f"model.pt has an infinite value in {name}"):
        load_classifier(tmp_path / "model")


def test_large_weights_are_numbers_even_if_their_sum_is_not():
    check_finite({"a": torch.full((2,), 3e38)}, "m.pt")
    check_finite({"a": torch.full((2,), 6e4, dtype=torch.float16)}, "m.pt")
    with refused("m.pt has an infinite value in a"):
        check_finite({"a": torch.tensor([float("inf"), 0.0, -float("inf")])}, "m.pt")


def test_loading_draws_no_random_numbers():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    load_classifier(exported()[2])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("counts", [[0, 8], [8, 0], [1, 7]])
def test_a_model_with_a_single_answer_is_warned_of(tmp_path, counts, capsys):
    with edited(tmp_path / "a.pt") as state:
        assert sum(state["task_state"]["answers"]["valid"]) == 8
        state["task_state"]["answers"] = {"valid": counts, "test": [4, 4]}
    arguments = ["--checkpoint", tmp_path / "a.pt", "--data", toy_data()]
    assert main(["export", *map(str, arguments), "--to", str(tmp_path / "model")]) == 0
    said = capsys.readouterr().err
    label = {0: "negative", 8: "positive"}.get(counts[1])
    assert (f"predicted {label!r} for all 8 examples of valid" in said) == (
        label is not None
    )


def test_the_head_keeps_its_name(tmp_path):
    """A checkpoint of --classification-head-name, here by renaming weights."""
    with edited(tmp_path / "a.pt") as state:
        state["model"] = {n.replace(HEAD, "mine"): w for n, w in state["model"].items()}
        state["cfg"]["task"]["classification_head_name"] = "mine"
        state["task_state"][KEY]["head"] = "mine"
    export_classifier(tmp_path / "a.pt", toy_data(), tmp_path / "model")
    places = (toy_model(), tmp_path / "model")
    classifiers = [load_classifier(place) for place in places]
    examples = [e.sentences for e in held_out(False)]
    found = [probabilities(c, encode(c, examples)[0]) for c in classifiers]
    assert torch.equal(*found)
    hub = RobertaModel.from_pretrained(str(tmp_path / "model"), bpe=None).eval()
    tokens = encode(classifiers[0], examples)[0][0]
    with torch.no_grad():
        expected = hub.predict("mine", tokens).exp()[0]
    torch.testing.assert_close(found[0][0], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("token", [0, None])
def test_data_of_fairseq_preprocess_needs_the_encoder_folder(tmp_path, token):
    """Which has no manifest, no tokenizer, no label_map.json, and says no tokens."""
    data = shutil.copytree(toy_data(), tmp_path / "data")
    for path in [p for p in data.iterdir() if p.is_file()]:
        path.unlink()
    with edited(tmp_path / "a.pt") as state:
        state["task_state"][KEY] |= {"tokenizer": {}, "init_token": token}
    arguments = (tmp_path / "a.pt", data, tmp_path / "model")
    with pytest.raises(InputError, match=r"manifest\.json; .*--encoder"):
        export_classifier(*arguments)
    pieces = (*PIECES[:6], "superb", *PIECES[6:])
    convert_encoder(make_bert(tmp_path / "bert", pieces), tmp_path / "encoder")
    with pytest.raises(InputError, match=f"--encoder is {tmp_path / 'encoder'}, "):
        export_classifier(*arguments, tmp_path / "encoder")
    export_classifier(*arguments, toy_encoder())
    ours, theirs = load_classifier(toy_model()), load_classifier(tmp_path / "model")
    assert theirs.labels == ours.labels
    (row,), (other,) = (encode(c, [("a good film",)])[0] for c in (ours, theirs))
    assert other.tolist() == row.tolist()[token is None :]


def test_a_checkpoint_of_other_special_tokens_than_its_data_is_refused(tmp_path):
    """Of the stock task, which does not set them by the data."""
    arguments = (tmp_path / "a.pt", toy_data(), tmp_path / "model")
    for token in (None, 2):
        with edited(tmp_path / "a.pt") as state:
            without_record(state)
            state["cfg"]["task"]["init_token"] = token
        with refused("--init-token"):
            export_classifier(*arguments)
    with edited(tmp_path / "a.pt") as state:
        without_record(state)
        # Only pairs have a separator.
        state["cfg"]["task"] |= {"init_token": 0, "separator_token": 2}
    export_classifier(*arguments)
    assert load_classifier(tmp_path / "model").separator_token is None


@pytest.mark.parametrize(("splits", "refused"), [("", True), ("train", False)])
def test_a_stock_checkpoint_of_cropped_validation_is_refused(tmp_path, splits, refused):
    shorten = {"shorten_method": "random_crop", "shorten_data_split_list": splits}
    with edited(tmp_path / "a.pt") as state:
        without_record(state)
        state["cfg"]["task"] |= shorten
    arguments = ["--checkpoint", tmp_path / "a.pt", "--data", toy_data()]
    code = main(["export", *map(str, arguments), "--to", str(tmp_path / "model")])
    assert (code != 0) == refused == (not (tmp_path / "model").exists())


@pytest.mark.parametrize("recorded", [True, False])
def test_labels_that_a_checkpoint_does_not_record_are_warned_of(tmp_path, recorded):
    with edited(tmp_path / "a.pt") as state:
        if not recorded:
            without_record(state)
    remarks = export_classifier(tmp_path / "a.pt", toy_data(), tmp_path / "model")
    assert any(str(toy_data()) in r and "'negative'" in r for r in remarks) != recorded


def test_a_head_that_was_not_trained_is_warned_of(tmp_path):
    with edited(tmp_path / "a.pt") as state:
        state["cfg"]["criterion"]["scl_lambda"] = 1.0
    remarks = export_classifier(tmp_path / "a.pt", toy_data(), tmp_path / "model")
    assert any("head is still random" in remark for remark in remarks)


def test_another_kind_of_folder_is_not_a_data_folder(tmp_path):
    _, checkpoint, model, _ = exported()
    for folder, kind in ((model, "model folder"), (toy_encoder(), "encoder folder")):
        with pytest.raises(InputError, match=f"{folder}/manifest.json: .*{kind}"):
            export_classifier(checkpoint, folder, tmp_path / "model")


@pytest.mark.parametrize("name", ["label/dict.txt", "manifest.json", "vocab.txt"])
def test_a_data_folder_without_its_files_is_refused(tmp_path, name):
    run, checkpoint, *_ = exported()
    data = shutil.copytree(run.data, tmp_path / "data")
    (data / name).unlink()
    with pytest.raises(InputError, match=f"missing .*{name}"):
        export_classifier(checkpoint, data, tmp_path / "model")
    assert os.listdir(tmp_path) == ["data"]


@pytest.mark.parametrize("name", ["classifier.json", "model.pt", "input0/dict.txt"])
def test_an_incomplete_model_folder_is_refused_by_name(tmp_path, name):
    folder = shutil.copytree(exported()[2], tmp_path / "model")
    (folder / name).unlink()
    with refused(f"{folder} is not a model folder: {name} is missing"):
        load_classifier(folder)

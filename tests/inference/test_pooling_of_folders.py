"""From an encoder that is read by the mean to its classifier and its export."""

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from safetensors.torch import load_file

from fairseq_scl.compat.checkpoints import load_checkpoint
from fairseq_scl.convert.huggingface import convert_encoder
from fairseq_scl.data.texts import read_split
from fairseq_scl.experiments.architecture import architecture_flags, encoder_pooling
from fairseq_scl.experiments.results_folder import BEST
from fairseq_scl.experiments.runner import run_training
from fairseq_scl.experiments.statistics import best_validation
from fairseq_scl.inference.huggingface import convert_classifier, export_huggingface
from fairseq_scl.inference.model_folder import (
    export_classifier,
    export_encoder,
    load_classifier,
)
from fairseq_scl.inference.predict import encode, features, probabilities
from helpers import ROOT
from helpers.encoders import LOSS, toy_encoder, toy_run
from helpers.huggingface import write_source
from helpers.refusals import refused

MEAN = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
POOLING = {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run with head and contrastive term on the mean: run, its folder, its record."""
    folder = tmp_path_factory.mktemp("run")
    run = toy_run(head_pooling="mean", loss={**LOSS, "scl_features": "mean"})
    return run, folder / "run", run_training(run, folder / "run")


@pytest.fixture(scope="module")
def model(trained, tmp_path_factory):
    """Its model folder."""
    run, folder, _ = trained
    target = tmp_path_factory.mktemp("models") / "model"
    export_classifier(folder / BEST, run.data, target)
    return target


@pytest.mark.parametrize("split", ["valid", "test"])
def test_prediction_counts_what_training_counted(trained, model, split):
    run, _, record = trained
    examples = read_split(run.data / "text", split)
    classifier = load_classifier(model)
    rows, _ = encode(classifier, [e.sentences for e in examples])
    found = probabilities(classifier, rows)
    numbers = torch.tensor([classifier.labels.index(e.label) for e in examples])
    best = best_validation(record.valid).update
    (counted,) = [v for v in getattr(record, split) if v.update == best]
    assert int((found.argmax(1) == numbers).sum()) == counted.correct
    loss = -found[range(len(found)), numbers].log().mean()
    assert float(loss) == pytest.approx(counted.ce_loss, abs=1e-4)


def test_features_are_those_that_the_head_reads(model):
    classifier = load_classifier(model)
    rows, _ = encode(classifier, [("a good film",), ("a very dull story , no",)])
    mean, first = features(classifier, rows, "mean"), features(classifier, rows, "cls")
    assert torch.equal(features(classifier, rows), mean)
    assert (mean - first).abs().max() > 0.01


def test_stock_fairseq_cannot_misread_the_model_folder(model):
    settings = load_checkpoint(model / "model.pt")["cfg"]["model"]
    assert (settings._name, settings.head_pooling) == ("roberta_bert", "mean")


def test_training_resumes_only_with_the_same_pooling(trained, model, tmp_path):
    assert "--head-pooling" in architecture_flags(model, 40, "mean")
    with refused(model, "reads mean", "head_pooling is cls", "--encoder-only"):
        architecture_flags(model, 40)
    run, folder, _ = trained
    export_encoder(folder / BEST, run.data, tmp_path / "encoder")
    assert encoder_pooling(tmp_path / "encoder") == "mean"
    assert "--head-pooling" not in architecture_flags(tmp_path / "encoder", 40)


def test_a_stock_architecture_is_trained_as_one_that_has_the_flag(tmp_path):
    write_source(tmp_path / "source", "roberta")
    convert_encoder(tmp_path / "source", tmp_path / "encoder")
    assert architecture_flags(tmp_path / "encoder", 40)[:2] == ["--arch", "roberta"]
    flags = architecture_flags(tmp_path / "encoder", 40, "mean")
    assert flags[:2] == ["--arch", "roberta_bert"]
    assert flags[flags.index("--layer-norm-eps") + 1] == "1e-05"
    assert flags[flags.index("--head-pooling") + 1] == "mean"


def write_settings(folder, settings, modules=None):
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(settings), "utf-8")
    if modules is not None:
        (folder / "modules.json").write_text(json.dumps(modules), "utf-8")


@pytest.mark.parametrize(
    ("settings", "modules", "pooling"),
    [
        (MEAN, None, "mean"),
        (MEAN, [{"path": "", "type": "a.Transformer"}, POOLING], "mean"),
        (MEAN, [{"path": "", "type": "a.Transformer"}], "cls"),
        ({"pooling_mode_cls_token": True}, [POOLING], "cls"),
        ({"pooling_mode": "mean"}, [POOLING], "mean"),
        ({"pooling_mode": "cls"}, [POOLING], "cls"),
    ],
)
def test_an_encoder_folder_records_its_pooling(
    tmp_path, run, settings, modules, pooling
):
    write_source(tmp_path / "source")
    write_settings(tmp_path / "source", settings, modules)
    words = ["convert", "--from", tmp_path / "source", "--to", tmp_path / "encoder"]
    status, printed, _ = run(*words)
    assert status == 0
    assert encoder_pooling(tmp_path / "encoder") == pooling
    assert ("--head-pooling mean" in printed) == (pooling == "mean")
    other = {"mean": "cls", "cls": "mean"}[pooling]
    assert run(*words, "--pooling", other)[0] == 0
    assert encoder_pooling(tmp_path / "encoder") == other


@pytest.mark.parametrize(
    "settings",
    [
        {"pooling_mode_max_tokens": True},
        {**MEAN, "pooling_mode_max_tokens": True},
        {"pooling_mode": "lasttoken"},
        {},
    ],
)
def test_another_pooling_is_refused_unless_one_is_chosen(tmp_path, settings):
    write_source(tmp_path / "source")
    write_settings(tmp_path / "source", settings)
    with refused(tmp_path / "source" / "1_Pooling" / "config.json", "--pooling"):
        convert_encoder(tmp_path / "source", tmp_path / "encoder")
    convert_encoder(tmp_path / "source", tmp_path / "encoder", pooling="mean")


def test_without_a_word_an_encoder_is_read_at_its_start():
    assert encoder_pooling(toy_encoder()) == "cls"


def roberta_model(folder):
    """Write the model folder of a random RoBERTa, with its head on the mean."""
    names = {0: "no", 1: "may be", 2: "yes"}
    name = "RobertaForSequenceClassification"
    write_source(folder / "source", "roberta", name, id2label=names)
    convert_classifier(folder / "source", folder / "model")
    state = torch.load(folder / "model" / "model.pt", weights_only=True)
    settings = {"_name": "roberta_bert", "head_pooling": "mean"}
    state["cfg"]["model"] |= {**settings, "layer_norm_eps": 1e-5}
    torch.save(state, folder / "model" / "model.pt")
    (folder / "model" / "manifest.json").unlink()
    return folder / "model"


def module_logits(folder, texts):
    """Compute what ``SentenceTransformer(folder).encode(texts)`` computes."""
    paths = [m["path"] for m in json.loads((folder / "modules.json").read_text())]
    assert [p[2:] for p in paths] == ["", "Pooling", "Dense", "Dense"]
    pooling = json.loads((folder / paths[1] / "config.json").read_text())
    assert pooling["pooling_mode_mean_tokens"]
    assert not pooling["pooling_mode_cls_token"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    encoder, told = transformers.AutoModel.from_pretrained(
        folder, output_loading_info=True
    )
    assert not told["missing_keys"]
    with torch.no_grad():
        states = encoder.eval()(**batch).last_hidden_state
    real = batch["attention_mask"][:, :, None]
    rows = (states * real).sum(1) / real.sum(1)
    for path in paths[2:]:
        layer = load_file(folder / path / "model.safetensors")
        rows = rows @ layer["linear.weight"].T + layer["linear.bias"]
        settings = json.loads((folder / path / "config.json").read_text())
        assert settings["out_features"] == rows.shape[1]
        if settings["activation_function"].endswith("Tanh"):
            rows = rows.tanh()
    return rows


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_a_mean_head_is_exported_to_sentence_transformers(tmp_path, model, kind, run):
    if kind == "roberta":
        model = roberta_model(tmp_path)
    words = ["export", "--format", "huggingface", "--model", model]
    status, printed, _ = run(*words, "--to", tmp_path / "out")
    assert status == 0
    assert "out for sentence-transformers" in printed
    texts = ["the film", "a gripping , beautifully acted film !", "x"]
    classifier = load_classifier(model)
    rows, _ = encode(classifier, [(text,) for text in texts])
    wanted = probabilities(classifier, rows)
    assert wanted.std(dim=0).min() > 1e-3
    found = module_logits(tmp_path / "out", texts).softmax(dim=1)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "SentenceTransformer(" in card
    assert "pipeline(" not in card


class ItsTransformer:
    """Takes the place of ``SentenceTransformer``, which is not installed."""

    def __init__(self, folder):
        self.folder = Path(folder)

    def encode(self, texts):
        return module_logits(self.folder, texts).numpy()


def test_the_code_of_the_page_and_of_the_card_runs(tmp_path, model, monkeypatch):
    library = SimpleNamespace(SentenceTransformer=ItsTransformer)
    monkeypatch.setitem(sys.modules, "sentence_transformers", library)
    export_huggingface(model, tmp_path / "out")
    pages = [ROOT / "docs" / "huggingface.md", tmp_path / "out" / "README.md"]
    for page in pages:
        found = re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
        (code,) = [one for one in found if "sentence_transformers" in one]
        for name in ("models/mine-hf", "path/to/this/folder"):
            code = code.replace(name, str(tmp_path / "out"))
        space = {}
        exec(code, space)
        assert set(space["labels"]) <= {"negative", "positive"}

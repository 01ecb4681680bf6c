"""Leaving a multi-exit model early: the rules, the model folder and the commands."""

import functools
import json
import shutil
import sys
from contextlib import redirect_stderr
from io import BytesIO, TextIOWrapper

import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.models.roberta import RobertaModel

from fairseq_scl.compat.checkpoints import load_checkpoint
from fairseq_scl.convert.huggingface import convert_encoder
from fairseq_scl.data.files import read_json, write_json
from fairseq_scl.errors import InputError
from fairseq_scl.experiments.command import command
from fairseq_scl.experiments.results_folder import BEST
from fairseq_scl.inference.early_exit import ExitRule, check_exits, early_probabilities
from fairseq_scl.inference.model_folder import (
    SETTINGS,
    export_classifier,
    export_encoder,
    load_classifier,
)
from fairseq_scl.inference.predict import encode, features, probabilities
from fairseq_scl.input_format import HEAD
from fairseq_scl.objectives.multi_exit.roberta_multi_exit import EXIT_LOGITS
from helpers import training
from helpers.encoders import make_bert, make_sentences, scratch, toy_data, toy_run

LAYERS = 4
POOLINGS = ("cls", "mean")
RULES = [
    *(ExitRule(threshold) for threshold in (0.5, 0.6, 0.75, 0.9, 0.99, 1.0)),
    *(ExitRule(patience=patience) for patience in (1, 2, 3, 4, 5)),
]
TEXTS = [e.sentences[0] for e in make_sentences(24, seed=5)]


@functools.cache
def trained(pooling):
    """Train a multi-exit BERT for a few updates; return its checkpoint.

    Its heads are then drawn again, so that they are sure of some sentences.
    """
    source = make_bert(scratch() / "bert of four layers", num_hidden_layers=LAYERS)
    encoder = scratch() / "encoder of four layers"
    if not encoder.exists():
        convert_encoder(source, encoder)
    run, folder = toy_run(encoder=encoder, updates=12), scratch() / f"exits {pooling}"
    argv = command(run, folder)
    argv[argv.index("--arch") + 1] = "roberta_multi_exit_bert"
    argv[argv.index("--criterion") + 1] = "sentence_prediction_multi_exit"
    argv += ["--exit-layers", "1,3", "--exit-pooling", pooling, "--acl-cl", "0.5"]
    folder.mkdir()
    ended = training.run_fast("fairseq_cli.train", argv[1:])
    assert ended.returncode == 0, ended.stderr[-2000:]
    state = load_checkpoint(folder / BEST)
    torch.manual_seed(0)
    for name, weight in state["model"].items():
        if name.startswith("classification_heads.") and name.endswith("weight"):
            weight.normal_(0, 0.4)
    torch.save(state, folder / BEST)
    return folder / BEST


@functools.cache
def exported(pooling):
    """Return the model folder of the trained model."""
    folder = scratch() / f"model folder {pooling}"
    export_classifier(trained(pooling), toy_data(), folder)
    return folder


@functools.cache
def one_exit():
    """Return the model folder of an ordinary classifier: the same, the top alone."""
    state = load_checkpoint(trained("cls"))
    weights = state["model"].items()
    state["model"] = {n: w for n, w in weights if "_exit" not in n}
    torch.save(state, scratch() / "one exit.pt")
    export_classifier(scratch() / "one exit.pt", toy_data(), scratch() / "one exit")
    return scratch() / "one exit"


@functools.cache
def loaded(pooling):
    classifier = load_classifier(exported(pooling))
    return classifier, encode(classifier, [(text,) for text in TEXTS])[0]


def of_each_exit(classifier, row):
    """Probabilities of one sentence at each exit, by fairseq's own encoder."""
    model = classifier.model
    # Not the packed forward of this instance.
    _, extra = RobertaModel.forward(model, row[None], True, True)
    found = {}
    for layer, name in classifier.exits.items():
        state = extra["inner_states"][layer].transpose(0, 1)
        if classifier.exit_pooling == "mean" and layer < LAYERS:
            state = state.mean(dim=1, keepdim=True)
        logits = model.classification_heads[name](state)
        found[layer] = torch.softmax(logits, dim=-1)[0].detach()
    return found


@functools.cache
def of_every_sentence(pooling):
    classifier, encoded = loaded(pooling)
    return [of_each_exit(classifier, row) for row in encoded]


def decided(every, rule):
    """Go up the exits of one sentence and stop where the rule says."""
    seen = []
    for layer, row in every.items():
        seen.append(int(row.argmax()))
        last = seen[-(rule.patience or 0) :]
        if rule.threshold is not None and row.max() >= rule.threshold:
            return layer, row
        if rule.patience and len(last) == rule.patience and len({*last}) == 1:
            return layer, row
    return layer, row


@pytest.mark.parametrize("pooling", POOLINGS)
def test_the_folder_computes_what_the_trained_model_does(pooling):
    classifier, encoded = loaded(pooling)
    assert classifier.exits == {1: f"{HEAD}_exit1", 3: f"{HEAD}_exit3", 4: HEAD}
    models, _, _ = checkpoint_utils.load_model_ensemble_and_task(
        [str(trained(pooling))], arg_overrides={"data": str(toy_data())}
    )
    for row in encoded[:6]:
        _, extra = models[0].eval()(
            row[None], classification_head_name=HEAD, exits="cls"
        )
        wanted = torch.softmax(extra[EXIT_LOGITS][0], dim=-1)
        found = torch.stack(list(of_each_exit(classifier, row).values()))
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


def test_fairseq_alone_loads_the_folder_as_the_deepest_exit(tmp_path):
    state = load_checkpoint(trained("cls"))
    state["cfg"]["model"].layer_norm_eps = 1e-5
    torch.save(state, tmp_path / "a.pt")
    export_classifier(tmp_path / "a.pt", toy_data(), tmp_path / "model")
    classifier, encoded = load_classifier(tmp_path / "model"), loaded("cls")[1]
    stock = RobertaModel.from_pretrained(str(tmp_path / "model")).eval()
    assert type(stock.model) is RobertaModel
    wanted = probabilities(classifier, encoded)
    with torch.no_grad():
        for row, expected in zip(encoded[:6], wanted, strict=False):
            found = stock.predict(HEAD, row).exp()[0]
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_the_encoder_of_the_model_is_exported_without_heads(tmp_path):
    export_encoder(trained("cls"), toy_data(), tmp_path / "encoder")
    state = torch.load(tmp_path / "encoder" / "model.pt", weights_only=True)
    assert not any("classification_heads" in name for name in state["model"])
    assert "load_checkpoint_heads" not in state["cfg"]["model"]


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_a_sentence_exits_at_the_same_layer_in_any_batch(pooling, rule):
    classifier, encoded = loaded(pooling)
    every = of_every_sentence(pooling)
    for tokens in (4096, 60):
        rows, layers = early_probabilities(classifier, encoded, rule, tokens)
        for exits, found, layer in zip(every, rows, layers, strict=True):
            wanted = decided(exits, rule)
            assert int(layer) == wanted[0]
            torch.testing.assert_close(found, wanted[1], rtol=0, atol=1e-5)


def test_exit_rules_in_these_tests_distinguish_sentences():
    classifier, encoded = loaded("cls")
    found = [
        set(early_probabilities(classifier, encoded, rule)[1].tolist())
        for rule in RULES
    ]
    assert {1} in found
    assert {4} in found
    assert {1, 3, 4} in found


@pytest.mark.parametrize("rule", [ExitRule(), ExitRule(1.01), ExitRule(2)], ids=str)
def test_a_rule_that_never_holds_is_the_ordinary_prediction(rule):
    classifier, encoded = loaded("cls")
    rows, layers = early_probabilities(classifier, encoded, rule)
    assert torch.equal(rows, probabilities(classifier, encoded))
    assert layers.tolist() == [LAYERS] * len(TEXTS)


def test_a_model_of_one_exit_has_the_ordinary_prediction():
    classifier = load_classifier(one_exit())
    encoded = encode(classifier, [(text,) for text in TEXTS])[0]
    rows, layers = early_probabilities(classifier, encoded, ExitRule(1.5))
    assert torch.equal(rows, probabilities(classifier, encoded))
    assert layers.tolist() == [LAYERS] * len(TEXTS)


def test_no_sentences_give_no_answers():
    rows, layers = early_probabilities(loaded("cls")[0], [], ExitRule(0.5))
    assert (rows.shape, layers.shape) == ((0, 2), (0,))


def test_sentences_that_have_left_are_not_computed():
    """Layers above the exit see the rows of those that stay, and no others."""
    classifier, encoded = loaded("cls")
    rule = ExitRule(0.75)
    exits = early_probabilities(classifier, encoded, rule)[1].tolist()
    seen = {}

    def note(layer, inputs):
        seen.setdefault(layer, set()).add(len(inputs[0]))

    layers = classifier.model.encoder.sentence_encoder.layers
    handles = [
        layer.self_attn.k_proj.register_forward_pre_hook(
            lambda _, inputs, number=number: note(number, inputs)
        )
        for number, layer in enumerate(layers, start=1)
    ]
    early_probabilities(classifier, encoded, rule, max_tokens=100_000)
    for handle in handles:
        handle.remove()
    pairs = list(zip(encoded, exits, strict=True))
    staying = {
        layer: sum(len(row) for row, left in pairs if left >= layer)
        for layer in range(1, LAYERS + 1)
    }
    assert seen == {layer: {count} for layer, count in staying.items() if count}
    assert staying[4] < staying[1]


def test_features_are_those_of_the_deepest_exit():
    classifier, encoded = loaded("mean")
    states = torch.stack(
        [
            RobertaModel.forward(classifier.model, row[None], True)[0][0, 0].detach()
            for row in encoded[:4]
        ]
    )
    found = features(classifier, encoded[:4])
    torch.testing.assert_close(found, states, rtol=1e-4, atol=1e-4)


def test_a_part_that_cannot_be_packed_is_refused_by_its_flag():
    classifier = load_classifier(exported("cls"))
    classifier.model.args.quant_noise_pq = 0.1
    with pytest.raises(InputError, match="cannot be combined with --quant-noise-pq"):
        check_exits(classifier, ExitRule(0.5), "x")


# The commands


@pytest.fixture
def predict(monkeypatch, run):
    def call(*arguments, model=None):
        content = "".join(f"{text}\n" for text in [*TEXTS[:3], "", *TEXTS[3:]])
        monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(content.encode())))
        folder = model or exported("cls")
        argv = ["predict", "--model", folder, "--device", "cpu", *arguments]
        status, printed, error = run(*argv)
        return status, printed.split("\n")[:-1], error

    return call


def test_predict_shows_the_exit_of_each_sentence_where_asked(predict):
    classifier, encoded = loaded("cls")
    wanted = early_probabilities(classifier, encoded, ExitRule(0.75))
    arguments = ["--exit-threshold", "0.75", "--show-exit"]
    status, rows, _ = predict(*arguments)
    assert status == 0
    assert rows.pop(3) == "\t\t"
    for line, row, layer in zip(rows, *wanted, strict=True):
        best = int(row.argmax())
        answer = [classifier.labels[best], f"{row[best]:.4f}", str(int(layer))]
        assert line.split("\t") == answer
    _, answers, _ = predict(*arguments, "--format", "json")
    layers = [json.loads(line)["exit_layer"] for line in answers]
    assert layers.pop(3) is None
    assert layers == wanted[1].tolist()
    assert "exit_layer" not in json.loads(predict("--format", "json")[1][0])
    assert [len(line.split("\t")) for line in predict(*arguments[:2])[1]] == [2] * 25


def test_a_threshold_above_1_equals_no_exit_rule(predict):
    ordinary = predict()
    assert predict("--exit-threshold", "1.1") == ordinary
    assert predict("--exit-patience", "1") != ordinary
    shown = predict("--show-exit")[1]
    assert [line.split("\t")[2] for line in shown if line != "\t\t"] == ["4"] * 24


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--exit-threshold", "0"], "--exit-threshold is 0.0: it must be"),
        (["--exit-threshold", "nan"], "--exit-threshold is nan: it must be"),
        (["--exit-patience", "0"], "--exit-patience is 0: it must be at least 1"),
        (["--exit-patience", "1", "--exit-threshold", "1"], "exclude each other"),
    ],
)
def test_predict_refuses_rules_with_one_sentence(predict, arguments, message):
    status, rows, error = predict(*arguments)
    assert (status, rows) == (2, [])
    assert message in error


def test_predict_refuses_a_model_of_one_exit(predict):
    status, rows, error = predict("--exit-patience", "2", model=one_exit())
    assert (status, rows) == (2, [])
    assert error == (
        f"fairseq-scl: error: {one_exit()} has only the top exit: early exit needs a "
        "model that was trained with --arch roberta_multi_exit"
    )
    assert predict("--exit-threshold", "2", model=one_exit())[0] == 0


def words_of_exits(folder):
    words = ["exits", "--data", toy_data(), "--to", folder / "it's.png"]
    for name, pooling in zip(("CE", "AC|L"), POOLINGS, strict=True):
        words += ["--model", f"{name}={exported(pooling)}"]
    return [*words, "--device", "cpu", "--repeats", "2"]


def test_exits_has_a_bar_over_models_and_rounds(tmp_path, run):
    with redirect_stderr(training.Terminal()) as terminal:
        assert run(*words_of_exits(tmp_path), "--thresholds", "0.5")[0] == 0
    # Two models, a round to warm up and two more.
    assert "6/6" in terminal.getvalue()


def test_exits_draws_accuracy_against_speed(tmp_path, run):
    status, printed, _ = run(*words_of_exits(tmp_path), "--thresholds", "0.5,0.75,1.1")
    assert status == 0
    made = sorted(path.name for path in tmp_path.iterdir())
    assert made == [".fairseq-scl.json", "it's.json", "it's.md", "it's.pdf", "it's.png"]
    table = (tmp_path / "it's.md").read_text()
    assert table in printed
    assert sum(line.startswith("|") for line in table.splitlines()) == 2 + 2 * 4
    assert "| AC\\|L | deepest exit |" in table
    found = json.loads((tmp_path / "it's.json").read_text())
    assert (found["split"], found["repeats"]) == ("test", 2)
    assert found["clock"] == "wall"
    assert len(found["origin"]["sha256"]) == 3
    for points in found["models"].values():
        first, _, never, deepest = points
        assert [p["threshold"] for p in points] == [0.5, 0.75, 1.1, None]
        assert first["layers"] == 1
        assert first["left"] == {"1": 8, "3": 0, "4": 0}
        assert never["layers"] == deepest["layers"] == LAYERS
        assert never["correct"] == deepest["correct"]
        for p in points:
            assert p["accuracy"] == 100 * p["correct"] / p["total"]
            assert p["total"] == sum(p["left"].values()) == 8
            assert 0 < p["fastest"] <= p["seconds"] <= p["slowest"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--thresholds", "a"], "--thresholds is 'a': it must be numbers separated"),
        (["--thresholds", "0.5,.5"], "--thresholds has '0.5' twice"),
        (["--thresholds", "0.5,-1"], "--exit-threshold is -1.0: it must be"),
        (
            ["--clock", "cpu", "--device", "cuda"],
            "--clock is cpu, which does not measure work on a GPU",
        ),
        (["--repeats", "0"], "--repeats is 0: it must be at least 1"),
        (["--max-tokens", "0"], "--max-tokens is 0: it must be at least 1"),
        (["--to", "x.pdf"], "--to is 'x.pdf': it must end in .png"),
        (["--model", "x"], "--model 'x': it must be NAME=FOLDER"),
        (["--model", "CE=x"], "--model 'CE=x': CE is given twice"),
        (["--split", "none"], "has no none split"),
    ],
)
def test_exits_refuses_bad_arguments_with_one_sentence(
    tmp_path, refusal, arguments, message
):
    assert message in refusal(*words_of_exits(tmp_path), *arguments)
    assert list(tmp_path.iterdir()) == []


def test_exits_refuses_a_model_of_one_exit(tmp_path, refusal):
    words = ["exits", "--data", toy_data(), "--to", tmp_path / "x.png"]
    words += ["--model", f"CE={one_exit()}", "--device", "cpu"]
    assert "has only the top exit" in refusal(*words)


def test_a_folder_without_the_pooling_reads_the_first_token(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(exported("mean"), folder)
    settings = read_json(folder / SETTINGS)
    assert settings.pop("exit_pooling") == "mean"
    write_json(folder / SETTINGS, settings)
    assert load_classifier(folder).exit_pooling == "cls"
    assert "exit_pooling" not in read_json(one_exit() / SETTINGS)

"""Files made to do harm: code in settings, and claims that would take all memory."""

import argparse
import contextlib
import io
import json
import os
import re
import shutil
import struct
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.models.roberta import RobertaModel

from fairseq_scl.augment.translation_model import average
from fairseq_scl.cli import main
from fairseq_scl.compat.checkpoints import load_checkpoint
from fairseq_scl.convert.encoder_weights import read_weights
from fairseq_scl.convert.huggingface import convert_encoder
from fairseq_scl.data.files import read_json, sha256, write_json
from fairseq_scl.data.folders import MANIFEST
from fairseq_scl.data.texts import Example
from fairseq_scl.experiments.architecture import architecture_flags
from fairseq_scl.experiments.results_folder import BEST
from helpers import ROOT
from helpers.encoders import toy_bert, toy_data, toy_encoder, toy_model, trained
from helpers.outputs import rows_of, write_outputs
from helpers.refusals import refused
from helpers.training import run_fast
from helpers.translation import toy_models


def code(marker):
    """An expression that makes a file, and is a list of numbers besides."""
    return f"[open({str(marker)!r}, 'w').close() or 5]"


def settings_of(state, section):
    found = state["cfg"][section]
    return vars(found) if isinstance(found, argparse.Namespace) else found


def rename(arch, **settings):
    return lambda state, marker: settings_of(state, "model").update(
        {"_name": arch, "arch": arch}
        | {name: code(marker) for name, value in settings.items() if value is None}
    )


def put(section, **settings):
    return lambda state, marker: settings_of(state, section).update(settings)


def as_arguments(state, marker):
    state["args"] = argparse.Namespace(
        arch="transformer", task="translation", adaptive_softmax_cutoff=code(marker)
    )


def in_values(state, marker):
    settings_of(state, "model")["_name"] = "lstm"
    settings_of(state, "model")["decoder_attention"] = code(marker)


XFORMERS = "encoder_xformers_att_config"
CLASSES = {"_name": "sentence_prediction", "num_classes": 10**11}
# Each with what the sentence must name.
REFUSED = {
    "cutoff": (rename("transformer", adaptive_softmax_cutoff=None), 'cutoff is "[open'),
    "fconv": (rename("fconv", encoder_layers=None), "arch is 'fconv'"),
    "lightconv": (rename("lightconv", encoder_conv_type=None), "arch is 'lightconv'"),
    "layers": (rename("roberta", encoder_layers=None), 'encoder_layers is "[open'),
    "keep": (rename("roberta", encoder_layers_to_keep=None), 'to_keep is "[open'),
    "attention": (in_values, 'decoder_attention is "[open'),
    "xformers": (rename("transformer", **{XFORMERS: None}), f'{XFORMERS} is "[open'),
    "arguments": (as_arguments, 'adaptive_softmax_cutoff is "[open'),
    "resolver": (put("task", note="${oc.env:HOME}"), "task.note is '${oc.env:HOME}'"),
    "resolver deep": (put("model", a=[{"b": ("x${c}",)}]), "model.a.0.b.0 is 'x${c}'"),
    "task": (put("task", _name="online_backtranslation"), "'online_backtranslation'"),
    "many layers": (put("model", encoder_layers=10**11), "layers is 100000000000"),
    "wide": (put("model", encoder_embed_dim=10**11), "embed_dim is 100000000000"),
    "wider": (put("model", encoder_ffn_embed_dim=90_000), "embed_dim is 90000"),
    "positions": (put("model", max_positions=10**11), "positions is 100000000000"),
    "classes": (put("task", **CLASSES), "num_classes is 100000000000"),
    "not a number": (put("model", dropout=float("nan")), "dropout is nan"),
    "another type": (put("model", encoder_layers=[2]), "encoder_layers is [2]"),
}


def poisoned(path, kind, marker):
    """Rewrite a checkpoint in place."""
    state = torch.load(path, weights_only=False)
    REFUSED[kind][0](state, marker)
    torch.save(state, path)
    return path


@pytest.fixture
def marker(tmp_path):
    return tmp_path / "marker"


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    rows = rows_of([Example(("a fine film",), "good")])
    return write_outputs(tmp_path_factory.mktemp("outputs") / "own-bt0.3.jsonl", rows)


def copied(folder, to):
    shutil.copytree(folder, to)
    return to / "model.pt"


def with_model(verb, *words):
    """Words of a verb that reads a data folder and the model folder ``m``."""

    def argv(tmp_path, _):
        place = ["--data", toy_data(), "--model", f"m={tmp_path / 'm'}"]
        to = ["--to", tmp_path / f"to{words[0]}"] if words else []
        return [verb, *place, *to, "--device", "cpu"]

    return toy_model, argv


def translate(tmp_path, _):
    (tmp_path / "own.tsv").write_text("text\tlabel\na b\tgood\nc\tbad\n")
    models = ["--forward", tmp_path / "m", "--backward", tmp_path / "m"]
    (tmp_path / "m" / "bpecodes").write_text("#version: 0.2\nz z\n")
    table = ["--table", tmp_path / "own.tsv", "--columns", "text", "label"]
    return ["backtranslate", *table, *models, "--to", tmp_path / "to"]


# The folder that is copied to ``m``, and the command that reads it.
VERBS = {
    "predict": (toy_model, lambda at, _: ["predict", "--model", at / "m"]),
    "figure": with_model("figure", ".png"),
    "analyze": with_model("analyze", ".md"),
    "exits": with_model("exits", ".png"),
    "noise": (
        toy_encoder,
        lambda at, outputs: ["noise", outputs, "--encoder", at / "m"],
    ),
    "backtranslate": (toy_models, translate),
    "export": (
        toy_model,
        lambda at, _: [
            *["export", "--checkpoint", at / "m" / "model.pt"],
            *["--data", toy_data(), "--to", at / "to"],
        ],
    ),
}


@pytest.mark.parametrize("kind", ["cutoff", "resolver"])
@pytest.mark.parametrize("verb", VERBS)
def test_no_verb_runs_or_resolves_what_a_file_says(
    tmp_path, marker, capsys, monkeypatch, outputs, verb, kind
):
    folder, argv = VERBS[verb]
    path = poisoned(copied(folder(), tmp_path / "m"), kind, marker)
    text = io.TextIOWrapper(io.BytesIO(b"a fine film\n"), "utf-8")
    monkeypatch.setattr(sys, "stdin", text)
    if (path.parent / MANIFEST).is_file():  # whoever changes a file changes this too
        manifest = read_json(path.parent / MANIFEST)
        manifest["sha256"][path.name] = sha256(path)
        write_json(path.parent / MANIFEST, manifest)
    words = [str(word) for word in argv(tmp_path, outputs)]
    assert main(words) == 2
    assert not marker.exists()
    told = capsys.readouterr().err.splitlines()[-1]
    assert str(path) in told
    assert REFUSED[kind][1] in told


FUNCTIONS = {
    "load_checkpoint": load_checkpoint,
    "run": lambda path: architecture_flags(path.parent, 512),
    "restore-file": lambda path: checkpoint_utils.load_checkpoint_to_cpu(str(path)),
    "path": lambda path: checkpoint_utils.load_model_ensemble_and_task([str(path)]),
    "from_pretrained": lambda path: RobertaModel.from_pretrained(
        str(path.parent), data_name_or_path=str(path.parent)
    ),
    "average": lambda path: average([path]),
}


# Every kind where it is refused, and that nothing goes past there.
EACH_WAY = [("load_checkpoint", kind) for kind in REFUSED]
EACH_WAY += [(name, kind) for name in FUNCTIONS for kind in ("attention", "arguments")]


@pytest.mark.parametrize(("name", "kind"), sorted(set(EACH_WAY)))
def test_no_way_to_load_an_encoder_gets_past_the_check(tmp_path, marker, kind, name):
    path = poisoned(copied(toy_encoder(), tmp_path / "m"), kind, marker)
    with refused(path, REFUSED[kind][1]):
        FUNCTIONS[name](path)
    assert not marker.exists()


@pytest.mark.parametrize("kind", ["cutoff", "arguments"])
def test_stock_fairseq_does_run_these(tmp_path, marker, monkeypatch, kind):
    """The payload is one, or the tests above would show nothing."""
    path = poisoned(copied(toy_models(updates=0), tmp_path / "m"), kind, marker)
    stock = checkpoint_utils.load_checkpoint_to_cpu.__wrapped__
    monkeypatch.setattr(checkpoint_utils, "load_checkpoint_to_cpu", stock)
    languages = {"source_lang": "en", "target_lang": "de"}
    with pytest.raises(Exception, match=r"."):
        checkpoint_utils.load_model_ensemble_and_task(
            [str(path)], arg_overrides={"data": str(tmp_path / "m"), **languages}
        )
    assert marker.exists()


def fairseq(module, *words):
    task = ["--user-dir", ROOT / "fairseq_scl", "--task", "sentence_prediction_scl"]
    task += ["--num-classes", 2, "--criterion", "sentence_prediction_scl"]
    argv = [toy_data(), "--cpu", *task, *words]
    return run_fast(f"fairseq_cli.{module}", [str(word) for word in argv])


@pytest.mark.parametrize("flag", ["--restore-file", "--finetune-from-model", "--path"])
def test_the_commands_of_fairseq_refuse_such_a_file(tmp_path, marker, flag):
    path = poisoned(copied(toy_encoder(), tmp_path / "m"), "cutoff", marker)
    if flag == "--path":
        words = ["--valid-subset", "valid", "--batch-size", 4]
        done = fairseq("validate", flag, path, *words)
    else:
        shape = architecture_flags(toy_encoder(), 16)
        size = ["--batch-size", 4, "--save-dir", tmp_path / "out"]
        done = fairseq("train", flag, path, *shape, "--optimizer", "adam", *size)
    assert done.returncode == 2, done.stderr
    assert not marker.exists()
    assert REFUSED["cutoff"][1] in done.stderr.splitlines()[-1]


def test_fairseq_validates_a_checkpoint_of_its_own():
    _, folder, record = trained()
    words = ["--path", folder / BEST, "--valid-subset", "test", "--batch-size", 8]
    done = fairseq("validate", *words, "--log-format", "json")
    assert done.returncode == 0, done.stderr
    found = re.findall(r'"test_accuracy": "?([\d.]+)', done.stderr + done.stdout)
    assert found, done.stderr
    allowed = {round(100 * one.correct / one.total, 1) for one in record.test}
    assert round(float(found[-1]), 1) in allowed


# What a run leaves in a file, and what is not needed to build the model


def test_folders_code_and_criteria_of_others_are_left_out(tmp_path, marker):
    path = copied(toy_encoder(), tmp_path / "m")
    (tmp_path / "plugin").mkdir()
    (tmp_path / "plugin" / "__init__.py").write_text(f"open({str(marker)!r}, 'w')")
    state = torch.load(path, weights_only=False)
    state["cfg"] |= {
        "common": {"user_dir": str(tmp_path / "plugin"), "seed": 7},
        "criterion": {"_name": "ctc", "wer_args": code(marker)},
        "bpe": {"_name": "sentencepiece", "sentencepiece_model": "/etc/passwd"},
        "checkpoint": {"save_dir": "/tmp/elsewhere"},
    }
    settings_of(state, "model").update(
        user_dir=str(tmp_path / "plugin"), distributed_port=-1, encoder_embed_path="/x"
    )
    settings_of(state, "task").update(data="/etc", metrics_file=str(marker))
    torch.save(state, path)
    cfg = load_checkpoint(path)["cfg"]
    assert cfg["common"]["user_dir"] is None
    assert cfg["criterion"] is None
    assert cfg["bpe"] == {"_name": "sentencepiece", "sentencepiece_model": "???"}
    assert cfg["task"]["data"] == str(tmp_path / "m")
    assert "encoder_embed_path" not in vars(cfg["model"])
    assert "distributed_port" not in vars(cfg["model"])
    assert cfg["checkpoint"]["save_dir"] != "/tmp/elsewhere"
    model, _, _ = checkpoint_utils.load_model_ensemble_and_task([str(path)])
    assert isinstance(model[0], RobertaModel)
    assert not marker.exists()


def test_a_roberta_of_2019_loads(tmp_path):
    """Its settings are arguments, with many that nothing needs."""
    path = copied(toy_encoder(), tmp_path / "m")
    state = torch.load(path, weights_only=False)
    shape = {k: v for k, v in settings_of(state, "model").items() if k != "_name"}
    old = {
        **shape,
        **{"arch": "roberta_bert", "task": "masked_lm", "tokens_per_sample": 512},
        **{"criterion": "masked_lm", "adam_betas": "(0.9, 0.98)", "lr": [0.0006]},
        **{"user_dir": None, "save_dir": "/checkpoint/someone", "data": "/data:/more"},
        **{"sample_break_mode": "complete", "mask_prob": 0.15, "no_progress_bar": True},
        **{"distributed_init_method": "tcp://host:1", "encoder_layers_to_keep": None},
    }
    weights = state["model"]
    state |= {"args": argparse.Namespace(**old), "cfg": None}
    torch.save(state, path)
    models, cfg, task = checkpoint_utils.load_model_ensemble_and_task([str(path)])
    assert type(task).__name__ == "MaskedLMTask"
    assert cfg.task.sample_break_mode == "complete"
    found = models[0].state_dict()
    name = "encoder.sentence_encoder.layers.1.fc1.weight"
    assert torch.equal(found[name], weights[name])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("adaptive_softmax_cutoff", v) for v in (None, "10,20", "[10, 20]", [10])],
        *[("left_pad_source", v) for v in (True, False, "True", "False", 0)],
        *[("decoder_output_dim", 32), ("dropout", 0), ("max_source_positions", 24.0)],
    ],
)
def test_values_as_fairseq_writes_them_are_kept(tmp_path, name, value):
    path = copied(toy_models(updates=0), tmp_path / "m")
    state = torch.load(path, weights_only=False)
    section = "task" if name == "left_pad_source" else "model"
    settings_of(state, section)[name] = value
    torch.save(state, path)
    cfg = load_checkpoint(path)["cfg"]
    assert settings_of({"cfg": cfg}, section)[name] == value


# Claims of size


@contextlib.contextmanager
def little_memory():
    """Require that the block takes less than 100 MB at any time."""

    def kilobytes(kind):
        text = Path("/proc/self/status").read_text()
        return int(text.split(f"{kind}:")[1].split()[0])

    Path("/proc/self/clear_refs").write_text("5")  # sets the peak to what is in use
    before = kilobytes("VmRSS")
    yield
    assert kilobytes("VmHWM") - before < 100_000


def refused_cheaply(load, path, *named):
    with little_memory(), refused(path, *named):
        load(path)


LOADERS = {"checkpoint": load_checkpoint, "pytorch_model": read_weights}


@pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)
def test_a_zip_bomb_is_refused_by_its_sizes(tmp_path, load):
    path = tmp_path / "bomb.bin"
    torch.save({"model": {"w": torch.zeros(1)}}, path)
    size = 1 << 28
    deflated = zipfile.ZIP_DEFLATED
    with (
        zipfile.ZipFile(path, "a", deflated, compresslevel=1) as archive,
        archive.open("bomb/data/1", "w") as member,
    ):
        for _ in range(size >> 24):
            member.write(bytes(1 << 24))
    assert os.path.getsize(path) < size // 100
    refused_cheaply(load, path, "unpacks to 268,43")


@pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)
def test_members_that_share_their_bytes_are_refused(tmp_path, load):
    path = tmp_path / "overlap.bin"
    torch.save({"model": {"w": torch.zeros(5000)}}, path)
    with zipfile.ZipFile(path, "a") as archive:
        largest = max(archive.infolist(), key=lambda one: one.file_size)
        for number in range(9):
            twin = zipfile.ZipInfo(f"overlap/data/x{number}")
            for name in ("file_size", "compress_size", "header_offset", "CRC"):
                setattr(twin, name, getattr(largest, name))
            archive.filelist.append(twin)
        archive._didModify = True
    refused_cheaply(load, path, "unpacks to")


@pytest.mark.parametrize("part", ["model", "last_optimizer_state"])
def test_views_larger_than_the_file_are_refused(tmp_path, part):
    path = tmp_path / "view.pt"
    torch.save({part: {"w": torch.zeros(1).expand(1 << 33)}}, path)
    refused_cheaply(load_checkpoint, path, "34,359,738,368 bytes")


@pytest.mark.parametrize(
    "weights",
    [
        *([1], {"w": "text"}, {"w": torch.ones(2).to_sparse()}),
        {"w": torch.ones(2, device="meta")},
        {"w": torch.zeros(1).expand(1 << 33)},
    ],
)
def test_what_is_not_a_weight_is_refused(tmp_path, weights):
    path = tmp_path / "pytorch_model.bin"
    torch.save({"model": weights}, path)
    refused_cheaply(load_checkpoint, path)
    torch.save(weights, path)
    refused_cheaply(read_weights, path)


def test_a_storage_larger_than_an_old_file_is_refused(tmp_path):
    path = tmp_path / "old.pt"
    state = {"model": {"w": torch.zeros(70_000)}}
    torch.save(state, path, _use_new_zipfile_serialization=False)
    claim = struct.pack("<i", 70_000), struct.pack("<i", 2**31 - 1)
    path.write_bytes(path.read_bytes().replace(b"J" + claim[0], b"J" + claim[1]))
    refused_cheaply(load_checkpoint, path)


@pytest.mark.parametrize("header", [1 << 62, 99_000_000, 200])
def test_a_header_larger_than_a_safetensors_file_is_refused(tmp_path, header):
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", header) + b'{"w": {}}')
    refused_cheaply(read_weights, path)


@pytest.mark.parametrize(
    "key", ["num_hidden_layers", "vocab_size", "max_position_embeddings", "hidden_size"]
)
def test_a_configuration_larger_than_the_weights_is_refused(tmp_path, key):
    source = shutil.copytree(toy_bert(), tmp_path / "bert")
    found = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**found, key: found[key] * 10**10}))
    refused_cheaply(lambda path: convert_encoder(path, tmp_path / "to"), source)


def test_settings_that_repeat_themselves_end(tmp_path):
    """Lists of lists: few bytes, and more values than there are atoms."""
    path = copied(toy_encoder(), tmp_path / "m")
    state = torch.load(path, weights_only=False)
    nested: list = ["x"]
    for _ in range(300):
        nested = [nested] * 10
    circle: dict = {}
    circle["self"] = circle
    settings_of(state, "task").update(nested=nested, circle=circle)
    torch.save(state, path)
    assert "nested" not in load_checkpoint(path)["cfg"]["task"]

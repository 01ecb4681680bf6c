"""Training with ACL: what is logged and saved, resumed runs, fp16, Hydra."""

import json

import pytest
import torch
from fairseq.models.roberta import RobertaModel

from fairseq_scl.compat.checkpoints import load_checkpoint
from helpers.checkpoints import assert_same_weights
from helpers.configurations import trained_with_hydra
from helpers.packed import HEAD
from helpers.refusals import assert_command_refused
from helpers.training import (
    RESET,
    make_data,
    toy_model,
    train_fast,
    trained_checkpoint,
)

ACL = ["--criterion", "sentence_prediction_acl"]
EMBED, GRAD = [*ACL, "--acl-embed"], [*ACL, "--acl-embed", "--acl-grad"]


@pytest.fixture(scope="module")
def trained(data, stock, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    flags = ["--restore-file", stock, *RESET, "--max-update", "13"]
    done = train_fast([data, "--save-dir", folder, *GRAD, *flags, "--max-epoch", "9"])
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_training_logs_what_was_decided(trained):
    lines = [line for line in trained[1].splitlines() if "| INFO | train | " in line]
    last = json.loads(lines[-1].rpartition("| ")[2])
    assert 0 <= float(last["train_acl_conflict"]) <= 1
    assert -1 <= float(last["train_acl_cosine"]) <= 1


def test_the_criterions_parameters_are_not_part_of_the_classifier(trained, stock, data):
    state = load_checkpoint(trained[0] / "checkpoint_last.pt")
    assert {n: tuple(v.shape) for n, v in state["criterion"].items()} == {
        "label_embeddings": (2, 16)
    }
    assert state["model"].keys() == load_checkpoint(stock)["model"].keys()
    model = RobertaModel.from_pretrained(
        str(trained[0]), "checkpoint_last.pt", str(data), bpe=None
    )
    assert model.predict(HEAD, torch.tensor([[0, 4, 2]])).shape == (1, 2)


def test_a_resumed_run_ends_as_an_uninterrupted_one(trained, data, stock, tmp_path):
    flags = ["--restore-file", stock, *RESET, "--max-update", "7"]
    for more in (flags, ["--max-update", "13"]):
        more += [*GRAD, "--max-epoch", "9"]
        last = trained_checkpoint(data, tmp_path, *more)
    files = [trained[0] / "checkpoint_last.pt", last]
    assert_same_weights(*files)
    tables = [load_checkpoint(file)["criterion"]["label_embeddings"] for file in files]
    assert torch.equal(*tables)


def test_another_number_of_classes_resets_the_embeddings_with_a_warning(
    trained, tmp_path, caplog
):
    three = make_data(tmp_path / "bin", classes=3)
    toy = toy_model([three, "--num-classes", "3", *EMBED])
    before = toy.criterion.label_embeddings.clone()
    learned = load_checkpoint(trained[0] / "checkpoint_last.pt")["criterion"]
    toy.criterion.load_state_dict(learned, strict=True)
    assert torch.equal(toy.criterion.label_embeddings, before)
    assert "the checkpoint has label_embeddings (2, 16)" in caplog.text


def test_fp16_trains_on_a_cpu(data, tmp_path):
    flags = ["--fp16", "--memory-efficient-fp16", "--fp16-init-scale", "4"]
    trained_checkpoint(data, tmp_path, *GRAD, *flags)


def test_hydra_trains_with_it(data, stock, tmp_path):
    name = "criterion._name=sentence_prediction_acl"
    settings = [f"checkpoint.restore_file={stock}", name, "+criterion.acl_embed=true"]
    settings += ["+criterion.acl_grad=true"]
    state = load_checkpoint(trained_with_hydra(data, tmp_path, *settings))
    assert state["cfg"]["criterion"]["acl_embed"] is True
    assert "label_embeddings" in state["criterion"]


def test_acl_grad_needs_a_head_that_reads_the_features(data, tmp_path):
    flags = [*GRAD, "--scl-features", "mean", "--save-dir", tmp_path]
    assert_command_refused(train_fast([data, *flags]), "--scl-features mean")
    mean = ["--arch", "roberta_bert", "--head-pooling", "mean"]
    assert train_fast([data, *flags, *mean]).returncode == 0

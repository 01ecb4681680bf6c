"""Training with CAPCORT: the encoder's z_pre in every run, never half-tuned targets."""

import json

import pytest
import torch
from fairseq.models.roberta import RobertaModel

from fairseq_scl.cli import main
from fairseq_scl.compat.checkpoints import load_checkpoint
from fairseq_scl.errors import InputError
from fairseq_scl.experiments.command import command
from fairseq_scl.inference.model_folder import export_classifier
from helpers.checkpoints import assert_same_weights
from helpers.configurations import trained_with_hydra
from helpers.encoders import scratch, toy_data, toy_run, train_in_fork
from helpers.packed import HEAD
from helpers.refusals import assert_command_refused
from helpers.training import RESET, toy_model, train_fast, trained_checkpoint

CAPCORT = ["--criterion", "sentence_prediction_capcort"]
ONE = [*CAPCORT, "--capcort-lambda", "1"]
MLP = ["--capcort-map", "mlp"]


def run_capcort(data, folder, *flags):
    return train_fast([data, "--save-dir", folder, *ONE, *flags, "--max-epoch", "9"])


@pytest.fixture(scope="module", params=["identity", "mlp"])
def run(request, data, stock, tmp_path_factory):
    folder = tmp_path_factory.mktemp(f"run {request.param}")
    flags = ["--capcort-map", request.param]
    start = ["--restore-file", stock, *RESET]
    done = run_capcort(data, folder, *flags, *start, "--max-update", "13")
    assert done.returncode == 0, done.stderr
    return folder, flags, done.stdout


def test_training_logs_the_term_and_checkpoints_hold_the_map_apart(run, stock):
    folder, flags, output = run
    lines = [line for line in output.splitlines() if "| INFO | train | " in line]
    assert float(json.loads(lines[-1].rpartition("| ")[2])["train_capcort_loss"]) > 0
    state = load_checkpoint(folder / "checkpoint_last.pt")
    assert state["model"].keys() == load_checkpoint(stock)["model"].keys()
    learned = list(state["criterion"] or {})
    assert learned == (
        ["phi.0.weight", "phi.0.bias", "phi.2.weight", "phi.2.bias"]
        if "mlp" in flags
        else []
    )


def test_the_classifier_loads_into_fairseq(run, data):
    model = RobertaModel.from_pretrained(
        str(run[0]), "checkpoint_last.pt", str(data), bpe=None
    )
    assert model.predict(HEAD, torch.tensor([[0, 4, 2]])).shape == (1, 2)


def test_z_pre_is_that_of_the_restored_encoder(data, stock, tmp_path):
    """Not of the random weights that the model had before."""
    flags = ["--restore-file", stock, *RESET, "--max-update", "3"]
    own = trained_checkpoint(data, tmp_path / "own", *ONE, *flags)
    flags += ["--capcort-pretrained"]
    given = trained_checkpoint(data, tmp_path / "given", *ONE, *flags, stock)
    assert_same_weights(own, given)
    other = trained_checkpoint(data, tmp_path / "other", *ONE, *flags, own)
    with pytest.raises(AssertionError):
        assert_same_weights(own, other)


def test_resuming_needs_the_encoder_and_ends_as_an_uninterrupted_run(
    run, data, stock, tmp_path
):
    folder, flags, _ = run
    start = ["--restore-file", stock, *RESET]
    done = run_capcort(data, tmp_path, *flags, *start, "--max-update", "7")
    assert done.returncode == 0, done.stderr
    done = run_capcort(data, tmp_path, *flags, "--max-update", "13")
    assert_command_refused(done, "after 7 updates", "--capcort-pretrained")
    more = ["--capcort-pretrained", stock, "--max-update", "13"]
    done = run_capcort(data, tmp_path, *flags, *more)
    assert done.returncode == 0, done.stderr
    files = [place / "checkpoint_last.pt" for place in (folder, tmp_path)]
    assert_same_weights(*files)
    first, second = (load_checkpoint(file)["criterion"] or {} for file in files)
    assert all(torch.equal(second[name], value) for name, value in first.items())


@pytest.mark.parametrize("more", [[], ["--fp16", "--memory-efficient-fp16"]])
def test_the_map_is_trained(data, stock, tmp_path, more):
    start = ["--restore-file", stock, *RESET, *MLP, *more]
    save = ["--save-interval-updates", "1", "--max-update", "6"]
    done = run_capcort(data, tmp_path, *start, *save)
    assert done.returncode == 0, done.stderr
    first, last = (
        load_checkpoint(tmp_path / name)["criterion"]["phi.0.weight"].float()
        for name in ("checkpoint_1_1.pt", "checkpoint_last.pt")
    )
    assert (first - last).abs().max() > 1e-3


def test_hydra_trains_with_it(data, stock, tmp_path):
    name = "criterion._name=sentence_prediction_capcort"
    settings = [f"checkpoint.restore_file={stock}", name, "+criterion.capcort_map=mlp"]
    state = load_checkpoint(trained_with_hydra(data, tmp_path, *settings))
    assert state["cfg"]["criterion"]["capcort_map"] == "mlp"
    assert "phi.0.weight" in state["criterion"]


def test_its_classifier_is_exported_and_predicts(tmp_path, capsys):
    """The runner's own command with another criterion, from a converted encoder."""
    run, folder = toy_run(), scratch() / "capcort run"
    folder.mkdir()
    argv = [*command(run, folder), *CAPCORT, *MLP, "--scl-lambda", "0.5"]
    assert train_in_fork(run, argv, folder) == 0
    model = tmp_path / "model"
    export_classifier(folder / "checkpoint_best.pt", toy_data(), model)
    saved = torch.load(model / "model.pt", weights_only=True)
    assert not any("phi" in name for name in saved["model"])
    assert not saved.get("criterion")
    texts = tmp_path / "texts"
    texts.write_text("a good film\na bad film\n")
    assert main(["predict", "--model", str(model), str(texts)]) == 0
    assert "positive" in capsys.readouterr().out


def test_a_checkpoint_of_another_architecture_is_refused(data, stock, tmp_path):
    toy = toy_model([data, *ONE, "--capcort-pretrained", tmp_path / "none.pt"])
    with pytest.raises(InputError, match="missing checkpoint"):
        toy.criterion.before_update(toy.model, 0)
    three = ["--encoder-layers", "3", "--capcort-pretrained", stock]
    toy = toy_model([data, *ONE, *three])
    with pytest.raises(InputError, match="does not match --arch"):
        toy.criterion.before_update(toy.model, 0)

"""A device that is not there is refused, and never replaced by another in silence."""

import pytest
import torch
from toy_encoder import toy_encoder, toy_run
from toy_tables import make_toy_samples, write_toy_table

from fairseq_scl.cli import main
from fairseq_scl.device import check_device
from fairseq_scl.errors import InputError
from fairseq_scl.experiments.runner import run_training
from fairseq_scl.inference.encoder_folder import load_encoder
from fairseq_scl.inference.model_folder import load_classifier

SENTENCE = "the device is 'cuda', but PyTorch finds no CUDA device here: use cpu"


@pytest.fixture(autouse=True)
def _without_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_cpu_is_always_there():
    check_device("cpu")


@pytest.mark.parametrize("load", [load_classifier, load_encoder])
def test_models_are_not_loaded_to_it(load):
    with pytest.raises(InputError) as error:
        load(toy_encoder(), "cuda")
    assert str(error.value) == SENTENCE


def test_a_run_on_it_keeps_what_is_in_its_folder(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("of an earlier attempt")
    with pytest.raises(InputError) as error:
        run_training(toy_run(device="cuda"), tmp_path)
    assert str(error.value) == SENTENCE
    assert (tmp_path / "metrics.jsonl").read_text() == "of an earlier attempt"


def test_a_sweep_on_it_does_not_begin(tmp_path, capsys):
    table, data = write_toy_table(tmp_path), make_toy_samples(tmp_path / "data")
    command = ["run", str(table), "--data", str(data), "--model", str(toy_encoder())]
    results = tmp_path / "results"
    assert main([*command, "--results", str(results), "--device", "cuda"]) == 2
    assert SENTENCE in capsys.readouterr().err
    assert not results.exists()


def test_the_quick_start_on_it_does_not_begin(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["quickstart", "--device", "cuda"]) == 2
    assert SENTENCE in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []

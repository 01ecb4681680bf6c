"""Versions that fit together, and checkpoints that are read without running code."""

import argparse
import functools
import io
import os
import pathlib
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.logging import meters
from fairseq.models.roberta import RobertaModel
from fairseq.tasks.sentence_prediction import SentencePredictionTask

from fairseq_scl.compat import checkpoints, input_errors, patches, versions
from fairseq_scl.compat.patches.restore_file import RESETS
from fairseq_scl.errors import InputError
from helpers.refusals import refused
from helpers.training import make_data, toy_model, train_fast


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A data folder, and the checkpoint that fairseq-train leaves beside it."""
    folder = tmp_path_factory.mktemp("trained")
    data = make_data(folder / "bin")
    done = train_fast([data, "--save-dir", folder, "--max-epoch", "1"])
    assert done.returncode == 0, done.stderr
    return SimpleNamespace(data=data, checkpoint=folder / "checkpoint_last.pt")


class Hostile:
    """Runs a shell command when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch '{self.marker}'",)


class Harmless:
    """A class of one's own."""


LOADERS = {
    "ours": checkpoints.load_checkpoint,
    # By name: the attribute is looked up when fairseq itself does.
    "fairseq": lambda path: checkpoint_utils.load_checkpoint_to_cpu(str(path)),
}


@pytest.fixture(params=LOADERS)
def load(request):
    """Each way to load a checkpoint."""
    return LOADERS[request.param]


# Hostile files


@pytest.mark.parametrize("zipped", [True, False])
def test_a_hostile_pickle_is_refused_and_does_not_run(tmp_path, load, zipped):
    path, marker = tmp_path / "hostile.pt", tmp_path / "marker"
    torch.save(
        {"model": {}, "args": Hostile(marker)},
        path,
        _use_new_zipfile_serialization=zipped,
    )
    with pytest.raises(InputError) as caught:
        load(path)
    assert not marker.exists()
    assert str(caught.value) == (
        f"{path} was not loaded: its pickle asks for {os.system.__module__}.system, "
        "which no fairseq checkpoint needs and which could run code; if you made the "
        "file yourself, load it once with "
        "fairseq_scl.compat.checkpoints.load_checkpoint(path, trusted=True) and save "
        "its 'model' again"
    )
    # The file does what this test is about.
    torch.load(path, weights_only=False)
    assert marker.exists()


@pytest.mark.parametrize(
    ("name", "thing"),
    [
        ("test_compat.Harmless", Harmless()),
        ("functools.partial", functools.partial(print, "hello")),
        (r"(builtins\.)?eval", eval),
        (r"(builtins\.)?getattr", getattr),
        (r"pathlib(\._local)?.PurePosixPath", pathlib.PurePosixPath("a")),
        ("torch.nn.modules.linear.Linear", torch.nn.Linear(1, 1)),
        ("numpy", np.zeros(3)),
    ],
)
def test_the_list_of_allowed_classes_is_short(tmp_path, name, thing):
    path = tmp_path / "other.pt"
    torch.save({"model": {}, "other": thing}, path)
    with pytest.raises(InputError, match=f"its pickle asks for {name}"):
        checkpoints.load_checkpoint(path)


def test_a_file_is_trusted_only_when_asked_for(tmp_path):
    path = tmp_path / "own.pt"
    torch.save({"model": {}, "other": Harmless()}, path)
    assert isinstance(
        checkpoints.load_checkpoint(path, trusted=True)["other"], Harmless
    )
    with pytest.raises(InputError):
        checkpoints.load_checkpoint(path)


# Files that fairseq wrote


def test_a_checkpoint_of_fairseq_train_loads(trained, load):
    state = load(trained.checkpoint)
    assert state["args"] is None
    assert isinstance(state["cfg"]["model"], argparse.Namespace)
    assert state["cfg"]["criterion"]["_name"] == "sentence_prediction_scl"
    assert state["optimizer_history"][-1]["num_updates"] == 5
    assert state["last_optimizer_state"]["state"][0]["exp_avg"].dim() > 0
    assert state["extra_state"]["metrics"]["default"]
    weight = state["model"]["encoder.sentence_encoder.embed_tokens.weight"]
    assert weight.shape[1] == 16


@pytest.fixture
def old_style(tmp_path, monkeypatch):
    """A checkpoint as fairseq wrote them until 2020, with NumPy 1."""
    kinds = (meters.AverageMeter, meters.TimeMeter, meters.StopwatchMeter)
    for kind in (*kinds, meters.SumMeter):
        monkeypatch.setattr(kind, "__module__", "fairseq.meters")
    average = meters.AverageMeter()
    average.update(np.float64(2.5), 3)
    state = {
        "args": argparse.Namespace(arch="roberta_base", lr=[np.float32(0.5)]),
        "model": {"weight": torch.ones(2)},
        "optimizer_history": [
            {
                "criterion_name": "SentencePredictionCriterion",
                "best_loss": np.float64(0.25),
                "num_updates": np.int64(7),
            }
        ],
        "last_optimizer_state": {"state": {}, "param_groups": [{"lr": 0.1}]},
        "extra_state": {
            "train_iterator": {"epoch": 2},
            "train_meters": {
                "train_loss": average,
                "wps": meters.TimeMeter(),
                "train_wall": meters.StopwatchMeter(),
                "total": meters.SumMeter(),
            },
            "best": np.float32(0.125),
            "stop": np.bool_(True),
        },
    }
    buffer = io.BytesIO()
    torch.save(state, buffer, _use_new_zipfile_serialization=False)
    content = buffer.getvalue()
    assert b"cfairseq.meters\nAverageMeter" in content
    path = tmp_path / "old.pt"
    path.write_bytes(
        content.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    )
    return path


def test_an_old_checkpoint_with_meters_and_numpy_scalars_loads(old_style):
    state = checkpoints.load_checkpoint(old_style)
    assert state["cfg"]["model"].arch == "roberta_base"
    assert state["optimizer_history"][0]["best_loss"] == 0.25
    found = state["extra_state"]["train_meters"]
    assert (found["train_loss"].avg, found["train_loss"].count) == (2.5, 3)
    assert isinstance(found["wps"], meters.TimeMeter)
    assert state["extra_state"]["best"] == 0.125
    assert state["extra_state"]["stop"]


@pytest.mark.filterwarnings("ignore::UserWarning")  # fairseq's use of Hydra
def test_fairseq_upgrades_an_old_checkpoint(old_style):
    state = checkpoint_utils.load_checkpoint_to_cpu(str(old_style))
    assert state["cfg"].model.arch == "roberta_base"
    assert state["optimizer_history"][-1]["num_updates"] == 7


def test_the_copied_weights_of_fairseq_0_12_2_are_dropped(trained, load, tmp_path):
    state = checkpoints.load_checkpoint(trained.checkpoint)
    names = list(state["model"])
    copy = "encoder.sentence_encoder.layers.0.in_proj_weight"
    state["model"][copy] = torch.zeros(48, 16)
    torch.save(state, tmp_path / "old.pt")
    assert list(load(tmp_path / "old.pt")["model"]) == names


# Damaged files


def stored(zipped=True):
    """Return the bytes of a small checkpoint."""
    buffer = io.BytesIO()
    state = {"model": {"a": torch.ones(500)}}
    torch.save(state, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


CUT = [
    content[: int(len(content) * share)]
    for content in (stored(), stored(zipped=False))
    for share in (0.001, 0.1, 0.5, 0.9, 0.999)
]
# A name that ends too early is the sign of a damaged file, not of a hostile one.
CUT += [
    stored(zipped=False).partition(b"ctorch._utils\n")[0] + end
    for end in (b"ctorch._ut", b"ctorch._utils\n_rebuild_te")
]
OTHERS = [b"", b"hello", b"<!DOCTYPE html>", b"version https://git-lfs", b"\x80"]


@pytest.mark.parametrize("content", [*CUT, *OTHERS], ids=len)
def test_a_file_that_is_not_a_whole_checkpoint_is_named(tmp_path, load, content):
    path = tmp_path / "other.pt"
    path.write_bytes(content)
    with refused(f"{path} is damaged or is not a fairseq checkpoint (") as caught:
        load(path)
    # PyTorch's own message tells the reader to load it with weights_only=False.
    assert "weights_only" not in str(caught.value)


def test_a_missing_checkpoint_is_named(tmp_path, load):
    for path in (tmp_path / "missing.pt", tmp_path):
        with refused(f"missing checkpoint: {path}"):
            load(path)


@pytest.mark.parametrize("content", [[1, 2], torch.ones(2)])
def test_a_checkpoint_that_is_not_a_dictionary_is_refused(tmp_path, load, content):
    path = tmp_path / "other.pt"
    torch.save(content, path)
    with refused(f"{path} is "):
        load(path)


def test_fairseq_names_the_weights_of_another_library(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    torch.save({"encoder.layer.0.weight": torch.ones(2)}, path)
    with refused(f"{path} is damaged or is not a fairseq checkpoint ("):
        LOADERS["fairseq"](path)


def restore(folder, task=None, **settings):
    """Have fairseq restore with these settings, up to the trainer's own method."""
    defaults = {"restore_file": "checkpoint_last.pt", "optimizer_overrides": "{}"}
    defaults |= dict.fromkeys(("finetune_from_model", "continue_once"))
    defaults["save_dir"] = str(folder)
    cfg = SimpleNamespace(**defaults | dict.fromkeys(RESETS, False) | settings)
    trainer = SimpleNamespace(
        checkpoint_suffix="", data_parallel_world_size=1, task=task
    )
    with pytest.raises(AttributeError, match="load_checkpoint"):  # of the trainer
        checkpoint_utils.load_checkpoint(cfg, trainer)


def test_a_missing_file_to_restore_is_refused(tmp_path):
    """Stock fairseq goes on from random weights."""
    path, place = str(tmp_path / "missing.pt"), tmp_path / "checkpoints"
    with refused(f"--restore-file is {path}: there is no such file"):
        restore(place, restore_file=path)
    with refused(f"--restore-file is {tmp_path}: it is not a"):
        restore(place, restore_file=str(tmp_path))
    with refused(f"--finetune-from-model is {path}", "--restore-file"):
        restore(place, restore_file=str(tmp_path), finetune_from_model=path)
    with refused(f"--finetune-from-model is {path}", "--reset-meters"):
        restore(place, finetune_from_model=path, reset_meters=True)
    with refused(f"--continue-once is {path}: there is no such file"):
        restore(place, continue_once=path)
    for given in (str(tmp_path), path):
        with refused(f"--finetune-from-model is {given}: "):
            restore(place, finetune_from_model=given)
    (place / "checkpoint_last.pt").mkdir(parents=True)
    with refused(f"--restore-file is {place / 'checkpoint_last.pt'}: "):
        restore(place, finetune_from_model=path)


@pytest.mark.parametrize("there", [True, False])
def test_starting_over_next_to_a_last_checkpoint_is_warned_of(tmp_path, caplog, there):
    encoder = tmp_path / "encoder.pt"
    for path in (encoder, *([tmp_path / "checkpoint_last.pt"] if there else [])):
        path.touch()
    resets = {"reset_optimizer": True, "reset_dataloader": True, "reset_meters": True}
    restore(tmp_path, restore_file=str(encoder), **resets)
    assert ("--finetune-from-model" in caplog.text) == there


@pytest.mark.parametrize("task", [None, object.__new__(SentencePredictionTask)])
def test_random_weights_of_a_classifier_are_warned_of(tmp_path, caplog, task):
    restore(tmp_path, task)
    assert ("random weights" in caplog.text) == (task is not None)


def test_patching_twice_is_patching_once():
    before = checkpoint_utils.load_checkpoint_to_cpu, checkpoint_utils.load_checkpoint
    patches.patch_fairseq()
    after = checkpoint_utils.load_checkpoint_to_cpu, checkpoint_utils.load_checkpoint
    assert after == before


def test_a_model_loads_where_fairseq_alone_would(trained):
    """The weights that come out are those that training left."""
    hub = RobertaModel.from_pretrained(
        str(trained.checkpoint.parent),
        trained.checkpoint.name,
        str(trained.data),
        bpe=None,  # the default downloads that of GPT-2
    )
    expected = checkpoints.load_checkpoint(trained.checkpoint)["model"]
    for name, value in hub.model.state_dict().items():
        assert torch.equal(value, expected[name])
    assert toy_model([trained.data]).model.state_dict().keys() == expected.keys()


# Errors inside fairseq's commands


@pytest.mark.parametrize("imported", [True, False])
def test_input_errors_pass_through_outside_of_fairseq_commands(monkeypatch, imported):
    for name in [n for n in sys.modules if n.startswith("fairseq_cli.")]:
        monkeypatch.delitem(sys.modules, name)
    if imported:  # but not at work
        train = ModuleType("fairseq_cli.train")
        monkeypatch.setitem(sys.modules, train.__name__, train)
    with pytest.raises(InputError), input_errors.exit_on_input_error():
        raise InputError("a sentence")


def raise_in_a_command(error):
    """Raise an error in code that a command of fairseq calls."""
    names = {"__name__": "fairseq_cli.train"}
    exec("def cli_main(block, error):\n    with block():\n        raise error", names)
    names["cli_main"](input_errors.exit_on_input_error, error)


def test_input_errors_end_fairseq_commands_with_status_2(capsys):
    with pytest.raises(SystemExit) as caught:
        raise_in_a_command(InputError("a sentence"))
    assert caught.value.code == 2
    assert capsys.readouterr().err == "fairseq-scl: error: a sentence\n"


def test_other_errors_pass_through_fairseq_commands():
    with pytest.raises(ValueError, match="a bug"):
        raise_in_a_command(ValueError("a bug"))


# Versions

STOCK, FIXED = "fairseq 0.12.2", "fairseq-fixed 0.12.3.1"
INSTALL = (
    "pip install torch numpy cython setuptools wheel, then env -u CUDA_HOME pip "
    "install --no-build-isolation fairseq-fixed==0.12.3.1"
)


NO_FAIRSEQ = f"fairseq is not installed: {INSTALL}"
OLD_TORCH = "cannot load fairseq's checkpoints safely: pip install 'torch>=2.6'"


@pytest.mark.parametrize(
    ("python", "fairseq", "fixed", "torch_version", "expected"),
    [
        ("3.11", None, "0.12.3.1", "2.13.0+cpu", []),
        ("3.12", None, "0.12.3.1", "3.0.0", []),
        ("3.13", None, "0.12.3.1", "2.10.0", []),
        ("3.14", None, "0.12.3.1", "2.9.0", []),
        ("3.10", None, "0.12.3.1", "2.6.0", ["on Python 3.10: use Python 3.11 to 3.1"]),
        ("3.15", None, "0.12.3.1", "2.6.0", ["on Python 3.15: use Python 3.11 to 3.1"]),
        ("3.11", "0.12.2", None, "2.6.0", [f"pip uninstall fairseq, {INSTALL}"]),
        ("3.12", None, None, "2.6.0", [NO_FAIRSEQ]),
        (
            *("3.11", "0.12.2", "0.12.3.1", "2.6.0"),
            [f"{STOCK} and {FIXED} are both installed and overwrite each other"],
        ),
        ("3.11", None, "0.12.3.1", None, ["PyTorch is not installed: pip install to"]),
        ("3.11", None, "0.12.3.1", "2.5.1", [f"PyTorch 2.5.1 {OLD_TORCH}"]),
        ("3.11", None, None, "1.13.1", [NO_FAIRSEQ, f"PyTorch 1.13.1 {OLD_TORCH}"]),
    ],
)
def test_each_problem_has_a_sentence_with_its_remedy(
    monkeypatch, python, fairseq, fixed, torch_version, expected
):
    installed = {"fairseq": fairseq, "fairseq-fixed": fixed, "torch": torch_version}
    monkeypatch.setattr(sys, "version_info", tuple(map(int, python.split("."))))
    monkeypatch.setattr(versions, "installed_version", installed.get)
    monkeypatch.setitem(sys.modules, versions.STARTUP, None)
    found = versions.problems()
    assert len(found) == len(expected)
    for problem, words in zip(found, expected, strict=True):
        assert words in problem


def test_python_3_14_without_the_start_up_module_is_a_problem(monkeypatch):
    installed = {"fairseq-fixed": "0.12.3.1", "torch": "2.13.0"}
    monkeypatch.setattr(versions, "installed_version", installed.get)
    monkeypatch.delitem(sys.modules, versions.STARTUP, raising=False)
    monkeypatch.setattr(sys, "version_info", (3, 14))
    (problem,) = versions.problems()
    assert problem.startswith("fairseq_scl_startup.pth")
    monkeypatch.setattr(sys, "version_info", (3, 13))
    assert versions.problems() == []


def test_the_report_lists_what_is_missing(monkeypatch):
    installed = versions.installed_version
    monkeypatch.setattr(
        versions,
        "installed_version",
        lambda name: None if name == "scipy" else installed(name),
    )
    rows, found = versions.doctor_report()
    assert dict(rows)["scipy"] == "not installed"
    assert found == ["scipy missing: pip install scipy"]


def test_the_report_says_that_nothing_is_installed(monkeypatch):
    monkeypatch.setattr(versions, "installed_version", lambda name: None)
    monkeypatch.setitem(sys.modules, "torch", None)
    rows, found = versions.doctor_report()
    assert dict(rows)["torch"] == "not installed"
    assert found[:2] == [
        f"fairseq is not installed: {INSTALL}",
        "PyTorch is not installed: pip install torch",
    ]


def test_the_report_says_that_fairseq_does_not_import(monkeypatch):
    monkeypatch.setitem(sys.modules, "fairseq", None)
    _, found = versions.doctor_report()
    assert len(found) == 1
    assert found[0].startswith("fairseq is installed but cannot be imported (Mod")


def test_the_version_of_an_absent_distribution_is_none():
    assert versions.installed_version("no-such-distribution-at-all") is None
    assert versions.installed_version("torch")

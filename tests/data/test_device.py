"""Which GPUs there are is known without CUDA; what is not there is refused."""

import subprocess
import types
from contextlib import nullcontext

import pytest
import torch

from fairseq_scl import device
from fairseq_scl.device import PRECISIONS, check_device, describe_device, visible_gpus
from fairseq_scl.experiments.results_folder import read_record
from fairseq_scl.experiments.runner import run_training
from fairseq_scl.inference.encoder_folder import load_encoder
from fairseq_scl.inference.model_folder import load_classifier
from helpers.encoders import toy_encoder, toy_run
from helpers.fresh import run_fresh
from helpers.gpus import pretend
from helpers.refusals import refused

SENTENCE = "the device is 'cuda', but PyTorch finds no CUDA device here: use cpu"


@pytest.fixture
def without_gpus(monkeypatch):
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: False)


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, [0, 1, 2, 3, 4, 5]),
        ("", []),
        ("-1", []),
        ("4", [4]),
        ("3, 1", [3, 1]),
        ("5,6,1", [5]),  # CUDA stops at the first that is unknown
        ("GPU-2f00-ba5,0", [2, 0]),
        ("GPU-4f", [4]),
    ],
)
def test_gpus_are_those_that_cuda_would_show(monkeypatch, visible, expected):
    pretend(monkeypatch, 6, visible=visible)
    assert [gpu.name for gpu in visible_gpus()] == [f"Fake GPU {n}" for n in expected]
    if visible and expected:
        entries = [entry.strip() for entry in visible.split(",")]
        assert [gpu.entry for gpu in visible_gpus()] == entries[: len(expected)]


def test_a_pytorch_for_cpus_has_none(monkeypatch):
    pretend(monkeypatch, 2)
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: False)
    assert visible_gpus() == []


@pytest.mark.parametrize(
    ("count", "visible", "entries"),
    [
        (0, None, ["0", "1"]),
        (0, "7,3", ["7", "3"]),
        (3, "MIG-a,MIG-b", ["MIG-a", "MIG-b"]),
    ],
)
def test_where_nvml_does_not_know_another_process_is_asked(
    monkeypatch, count, visible, entries
):
    pretend(monkeypatch, count, visible=visible)
    monkeypatch.setattr(device, "_ask_a_process", device._ask_a_process.__wrapped__)
    answer = '[["A", 7, 5], ["B", 9, 0]]'
    ended = types.SimpleNamespace(returncode=0, stdout=answer)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: ended)
    found = visible_gpus()
    assert [gpu.entry for gpu in found] == entries
    assert [(gpu.name, gpu.capability) for gpu in found] == [
        ("A", (7, 5)),
        ("B", (9, 0)),
    ]


@pytest.mark.parametrize(
    ("capabilities", "allowed", "named"),
    [
        ([], (), "the device is 'cuda'"),
        ([(9, 0)], PRECISIONS, ""),
        ([(8, 0), (8, 6)], PRECISIONS, ""),
        ([(9, 0), (7, 5)], ("fp32", "fp16"), "does not support"),
    ],
)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_precision_that_a_card_lacks_is_refused(
    monkeypatch, capabilities, allowed, named, precision
):
    pretend(monkeypatch, capabilities=capabilities)
    with nullcontext() if precision in allowed else refused(named):
        check_device("cuda", precision)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_cpu_is_always_there_but_has_one_precision(precision):
    words = (f"the precision is {precision!r}", "'cpu'")
    with nullcontext() if precision == "fp32" else refused(*words):
        check_device("cpu", precision)


def test_a_gpu_is_described_and_the_cpu_is_not(monkeypatch):
    pretend(monkeypatch, 4, visible="2")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 92000)
    found = {"gpu": "Fake GPU 2", "driver": "580.65", "cuda": "13.0", "cudnn": 92000}
    assert describe_device("cuda") == found
    assert describe_device("cpu") == dict.fromkeys(found)


@pytest.mark.parametrize("load", [load_classifier, load_encoder])
@pytest.mark.usefixtures("without_gpus")
def test_models_are_not_loaded_to_a_gpu_that_is_missing(load):
    with refused(SENTENCE):
        load(toy_encoder(), "cuda")


@pytest.mark.usefixtures("without_gpus")
def test_a_run_on_it_keeps_what_is_in_its_folder(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("of an earlier attempt")
    with refused(SENTENCE):
        run_training(toy_run(device="cuda"), tmp_path)
    assert (tmp_path / "metrics.jsonl").read_text() == "of an earlier attempt"


def test_a_gpu_that_pytorch_cannot_use_is_refused_and_not_recorded(
    monkeypatch, tmp_path
):
    """As with a driver that is too old; fairseq alone would train on the CPU."""
    pretend(monkeypatch, 1)
    with refused("PyTorch cannot use the GPU (this process asked CUDA)"):
        run_training(toy_run(device="cuda"), tmp_path)
    assert read_record(tmp_path) is None


WORDS = [
    (["--device", "cuda"], SENTENCE),
    (["--device", "cpu", "--precision", "bf16"], "the precision is 'bf16'"),
    (["--precision", "tf32"], "the precision is 'tf32'"),
]


@pytest.mark.parametrize(("words", "message"), WORDS)
@pytest.mark.usefixtures("without_gpus")
def test_a_sweep_on_it_is_refused(tmp_path, toy, refusal, words, message):
    assert message in refusal(*toy, *words)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(("words", "message"), WORDS)
@pytest.mark.usefixtures("without_gpus")
def test_the_quick_start_on_it_does_not_begin(
    tmp_path, refusal, monkeypatch, words, message
):
    monkeypatch.chdir(tmp_path)
    assert message in refusal("quickstart", *words)
    assert list(tmp_path.iterdir()) == []


def test_importing_the_package_does_not_touch_cuda():
    """fairseq by itself counts GPUs, which may bar the forks of a sweep from CUDA."""
    code = (
        "import torch\n"
        "def touched(): raise SystemExit('asked CUDA')\n"
        "torch.cuda.device_count = torch.cuda.is_available = touched\n"
        "import fairseq_scl.cli.run, fairseq_scl.cli.quickstart, torch._dynamo\n"
    )
    done = run_fresh(code)
    assert done.returncode == 0, done.stderr

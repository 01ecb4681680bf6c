"""Whole commands on a GPU: sweeps, precisions, workers, memory."""

import json
import subprocess
import sys

import pytest
import torch

from fairseq_scl import Classifier
from fairseq_scl.compat.checkpoints import load_checkpoint
from fairseq_scl.errors import InputError
from fairseq_scl.experiments.results_folder import BEST, LOG, RECORD
from fairseq_scl.experiments.runner import run_training
from helpers.distributed import free_port, train_and_save
from helpers.encoders import make_sentences, toy_encoder, toy_model, toy_run
from helpers.gradients import OFF
from helpers.tables import write_toy_table
from helpers.training import RESET, command_line, run_command, start_fast

pytestmark = pytest.mark.gpu


def words(device, *arguments):
    """Return a toy command of ``fairseq-train`` for the device."""
    found = command_line([*arguments, "--distributed-world-size", "1"])
    return [word for word in found if word != "--cpu" or device.type == "cpu"]


def train(device, *arguments):
    """Train in a new process and expect success."""
    done = start_fast(
        run_command, "fairseq_cli.train", words(device, *arguments)
    ).wait()
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done


def weights(folder):
    return load_checkpoint(folder / "checkpoint_last.pt")["model"]


@pytest.mark.parametrize("kind", ["cpu", "device"])
def test_table_runs_to_completion(device, samples, tmp_path, kind):
    """Two jobs, including on the CPU of a machine that has a GPU."""
    name = device.type if kind == "device" else "cpu"
    share = ["--jobs-per-gpu", "2"] if name == "cuda" else []
    done = subprocess.run(
        [
            *[sys.executable, "-m", "fairseq_scl.cli", "run"],
            *[write_toy_table(tmp_path), "--data", samples, "--model", toy_encoder()],
            *["--results", tmp_path / "results", "--device", name],
            *["--jobs", "2", *share],
        ],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    records = sorted((tmp_path / "results").glob(f"runs/*/{RECORD}"))
    assert len(records) == 9
    for path in records:
        record = json.loads(path.read_text("utf-8"))
        assert record["settings"]["device"] == name
        size = record["argv"].index("--distributed-world-size")
        assert record["argv"][size + 1] == "1"
        if name == "cuda":
            origin = json.dumps(record["origin"])
            assert torch.cuda.get_device_name() in origin
            assert torch.version.cuda in origin
            assert {"driver", "cudnn"} <= {key.lower() for key in keys(record)}


def keys(value):
    """Yield the keys of nested dictionaries."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from keys(inner)


@pytest.mark.parametrize("flags", ["--amp", "--bf16", "--fp16", "--fp16 --cuda-graphs"])
def test_half_precision_follows_single_precision(cuda, data, tmp_path, flags):
    """With a large ε, Adam is sensitive to wrongly scaled gradients."""
    common = [data, *OFF, "--optimizer", "fused_adam", "--adam-eps", "1e-2"]
    common += ["--max-update", "10", "--max-epoch", "99", "--lr", "0.01", "--packed"]
    single = train(cuda, *common, "--save-dir", tmp_path / "single")
    half = train(cuda, *common, "--save-dir", tmp_path / "half", *flags.split())
    first = train(cuda, *common, "--save-dir", tmp_path / "first", "--max-update", "1")
    assert single.returncode == half.returncode == first.returncode == 0
    assert "has no effect" not in half.stdout + half.stderr
    start, end, half = (weights(tmp_path / n) for n in ("first", "single", "half"))
    moved = sum((end[n].float() - start[n].float()).norm() for n in end)
    apart = sum((half[n].float() - end[n].float()).norm() for n in end)
    # The weights of a checkpoint are rounded to 8 bits in bf16.
    assert apart < (0.5 if flags == "--bf16" else 0.2) * moved


@pytest.mark.parametrize(
    ("precision", "within"),
    [("fp32", 1e-5), ("tf32", 1e-2), ("fp16", 1e-2), ("bf16", 5e-2)],
)
def test_predictions_are_those_of_a_cpu(device, precision, within):
    if device.type == "cpu" and precision != "fp32":
        pytest.skip("only on a CUDA device")
    texts = [example.sentences[0] for example in make_sentences(40, seed=3)]
    expected = Classifier.load(toy_model(), device="cpu").predict_proba(texts)
    found = Classifier.load(toy_model(), device.type, precision).predict_proba(texts)
    torch.set_float32_matmul_precision("highest")
    assert abs(found - expected).max() < within


def test_memory_efficient_half_precision_uses_fused_adam(cuda, data, tmp_path):
    flags = ["--fp16", "--memory-efficient-fp16", "--optimizer", "fused_adam"]
    train(cuda, data, "--save-dir", tmp_path, *flags)


def train_with_little_memory(argv):
    """Train as on a GPU with full memory."""
    if "--cpu" in argv:
        from fairseq_scl.tasks.sentence_prediction_scl import SentencePredictionSCLTask

        def full(*_, **__):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")

        SentencePredictionSCLTask.train_step = full
    else:
        torch.cuda.set_per_process_memory_fraction(0.0005)
    run_command("fairseq_cli.train", argv[1:])


def train_until_memory_is_full(run, argv, folder):
    done = start_fast(train_with_little_memory, argv).wait()
    (folder / LOG).write_text(done.stdout + done.stderr, "utf-8")
    return done.returncode


def test_out_of_memory_fails_the_run_with_one_sentence(device, tmp_path):
    run = toy_run(device=device.type, keep_checkpoint=False)
    with pytest.raises(InputError, match=r"out of memory.*batch") as error:
        run_training(run, tmp_path / "run", train=train_until_memory_is_full)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run" / RECORD).exists()


def train_thrice(folder, name):
    """Train in this process; record the memory left after each run, without gc."""
    import gc
    from pathlib import Path

    from fairseq.models.roberta import RobertaModel

    left = []
    for number in range(3):
        run = toy_run(device=name, keep_checkpoint=False, seed=number, updates=8)
        run_training(run, Path(folder, str(number)))
        models = sum(isinstance(o, RobertaModel) for o in gc.get_objects())
        memory = torch.cuda.memory_allocated() if name == "cuda" else 0
        left.append((models, memory))
    Path(folder, "left.json").write_text(json.dumps(left), "utf-8")


def test_memory_is_free_after_each_run(device, tmp_path):
    done = start_fast(train_thrice, str(tmp_path), device.type).wait()
    assert done.returncode == 0, done.stderr[-2000:]
    left = json.loads((tmp_path / "left.json").read_text("utf-8"))
    assert [models for models, _ in left] == [0, 0, 0]
    assert left[2][1] <= left[0][1] + 2**20


def train_together(device, data, folder, *flags):
    """Train with two processes: NCCL on two cards, otherwise gloo on one device."""
    cards = torch.cuda.device_count() if device.type == "cuda" else 0
    port, running = free_port(), []
    for rank in range(2):
        save_dir = folder / f"rank{rank}"
        save_dir.mkdir(parents=True)
        more = [
            *["--distributed-init-method", f"tcp://127.0.0.1:{port}"],
            *["--distributed-world-size", "2", "--distributed-no-spawn"],
            *["--distributed-rank", rank, "--ddp-backend", "legacy_ddp"],
            *["--distributed-backend", "nccl" if cards > 1 else "gloo"],
            *["--device-id", rank if cards > 1 else 0],
        ]
        argv = words(device, data, "--save-dir", save_dir, *OFF, *flags)
        argv = [*argv[:-2], *map(str, more)]
        running.append(start_fast(train_and_save, argv))
    done = [process.wait() for process in running]
    for process in done:
        assert process.returncode == 0, process.stdout[-2000:] + process.stderr[-3000:]
    return [weights(folder / f"rank{rank}") for rank in range(2)]


@pytest.mark.parametrize("head", ["before", "after"])
def test_a_fitted_head_is_that_of_the_trained_weights(device, tmp_path, head):
    """With fp16, the optimizer has copies of the weights, which must be fitted, too."""
    precision = "fp32" if device.type == "cpu" else "fp16"
    run = toy_run(
        device=device.type,
        precision=precision,
        regression_head=head,
        updates=2,
        learning_rate=1e-9,
    )
    run_training(run, tmp_path)
    found = load_checkpoint(tmp_path / BEST)["model"]
    dense = found["classification_heads.sentence_classification_head.dense.weight"]
    off = dense.float() - torch.diag(dense.float().diag())
    assert off.abs().max() < 1e-3 * dense.float().diag().mean()


TOGETHER = {
    "restore": ["--restore-file", "ENCODER", *RESET],
    "middle of an epoch": ["--validate-interval-updates", "2", "--gather-features"],
    "stored": [
        *["--criterion", "sentence_prediction_capcort", "--capcort-targets", "stored"],
        *["--validate-interval-updates", "2"],
    ],
    "gather in chunks": [
        *["--gather-features", "--contrastive-batch", "9", "--chunk", "4"],
        *["--batch-size", "8", "--packed"],
    ],
}


@pytest.mark.parametrize("name", TOGETHER)
@pytest.mark.parametrize("precision", ["", "--fp16"])
def test_two_workers_end_with_the_same_weights(device, data, tmp_path, name, precision):
    if precision and device.type == "cpu":
        pytest.skip("fairseq has no half precision on a CPU")
    if "restore" in name:
        train(device, data, "--save-dir", tmp_path / "one", "--max-update", "1")
    file = str(tmp_path / "one" / "checkpoint_last.pt")
    flags = [file if flag == "ENCODER" else flag for flag in TOGETHER[name]]
    more = [precision] if precision else []
    found = train_together(device, data, tmp_path, *flags, *more)
    for key, weight in found[0].items():
        assert torch.equal(found[1][key], weight), key


def test_gathering_two_workers_equals_one_with_twice_the_batch(device, data, tmp_path):
    flags = ["--gather-features", "--max-update", "6", "--max-epoch", "99"]
    flags += ["--batch-size", "10"]
    two = train_together(
        device, data, tmp_path / "two", *flags, "--contrastive-batch", "14"
    )[0]
    train(
        *[device, data, "--save-dir", tmp_path / "one", *OFF, *flags],
        *["--contrastive-batch", "27"],
    )
    one = weights(tmp_path / "one")
    for name, weight in one.items():
        torch.testing.assert_close(
            two[name].float(), weight.float(), atol=5e-4, rtol=1e-3, msg=name
        )


def test_parent_finds_gpus_without_a_cuda_context(cuda):
    """Import and query what `fairseq-scl run` does before it starts its workers."""
    code = (
        "import sys; from fairseq_scl.cli import main; import torch; "
        "sys.argv = ['x', 'run', '--help']\n"
        "try: main(['run', '--help'])\nexcept SystemExit: pass\n"
        "assert not torch.cuda.is_initialized()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]

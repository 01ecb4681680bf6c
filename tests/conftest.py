"""Settings that every test shares, and fixtures that several modules use."""

import os

# Before torch and transformers are imported, and inherited by every subprocess: two
# workers share two cores, nothing is fetched, figures need no screen.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import gc
import threading
from types import SimpleNamespace

import hypothesis
import pytest

from helpers.server import Server

# No deadline: a shared machine stalls. Derandomized: the same commit tests the same
# examples everywhere. `pytest --hypothesis-profile=search` draws many new ones.
hypothesis.settings.register_profile(
    "repeatable", deadline=None, derandomize=True, max_examples=50
)
hypothesis.settings.register_profile("search", deadline=None, max_examples=1000)
hypothesis.settings.load_profile("repeatable")


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Import the tests without garbage collections; later ones ignore the modules.

    There is one after every run that a test trains in this process.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the longest file first; at the end, one of two workers would wait for it.

    Workers get whole files in this order (``--dist loadfile``). Here and below, the
    process that starts the workers need not import PyTorch.
    """
    import torch

    torch.set_num_threads(1)
    items.sort(key=lambda item: item.path.name != "test_scripts.py")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a GPU, or PyTorch for one, unless it is rehearsed on the CPU."""
    import torch

    if item.get_closest_marker("cuda_build") and torch.version.cuda is None:
        pytest.skip("needs PyTorch built for CUDA")
    rehearsed = os.environ.get("GPU_TESTS_DEVICE") == "cpu"
    needs_gpu = item.get_closest_marker("gpu") and not rehearsed
    if needs_gpu and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture
def server(monkeypatch):
    """Yield a local server whose files and faults a test sets."""
    # pooch waits between tries
    monkeypatch.setattr("pooch.core.time", SimpleNamespace(sleep=lambda _: None))
    with Server() as running:
        running.daemon_threads = True
        running.block_on_close = False
        serve = threading.Thread(target=running.serve_forever, args=(0.01,))
        serve.start()
        yield running
        running.shutdown()


# Imported by the fixtures: helpers that need fairseq, which not every test does.


@pytest.fixture(scope="module")
def data(request, tmp_path_factory):
    """Return a toy data folder; ``DATA`` in a module has arguments of ``make_data``.

    By default batches of four leave a smaller one, which two workers cannot share.
    """
    from helpers.training import make_data

    sizes = {"sizes": {"train": 27, "valid": 10, "test": 10}, "words": 30}
    folder = tmp_path_factory.mktemp("data") / "bin"
    return make_data(folder, **{**sizes, **getattr(request.module, "DATA", {})})


@pytest.fixture(scope="module")
def stock(data, tmp_path_factory):
    """Return a checkpoint of the stock criterion after an update on the toy data."""
    from helpers.training import stock_checkpoint

    return stock_checkpoint(data, tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="session")
def samples(tmp_path_factory):
    """Return the data folders of the toy table's samples."""
    from helpers.tables import make_toy_samples
    from helpers.training import OF_A_RUN, command_line, settings

    settings(tuple(command_line(["data", *OF_A_RUN])))  # the forks of sweeps have it
    return make_toy_samples(tmp_path_factory.mktemp("it's samples"))


@pytest.fixture
def toy(tmp_path, samples):
    """Return the arguments of ``fairseq-scl run`` for the toy table."""
    from helpers.encoders import toy_encoder
    from helpers.tables import write_toy_table

    argv = ["run", write_toy_table(tmp_path), "--data", samples]
    argv += ["--model", toy_encoder(), "--results", tmp_path / "results"]
    return [str(word) for word in argv]


@pytest.fixture
def run(capfd):
    """Run a command line in this process; return status, output and last error line."""
    from fairseq_scl.cli import main

    def call(*argv):
        try:
            status = main([str(word) for word in argv])
        except SystemExit as ended:  # argparse
            status = ended.code
        printed = capfd.readouterr()
        assert "Traceback" not in printed.err
        errors = [s for s in printed.err.splitlines() if s.startswith("fairseq-scl")]
        return status, printed.out, errors[-1] if errors else ""

    return call


@pytest.fixture
def refusal(capfd):
    """Run a command line that must be refused; return the line that says why."""
    from fairseq_scl.cli import main

    def call(*argv):
        capfd.readouterr()
        assert main([str(word) for word in argv]) == 2
        error = capfd.readouterr().err
        (line,) = (s for s in error.splitlines() if "fairseq-scl: note: " not in s)
        return line

    return call


@pytest.fixture(scope="session")
def fast_commands(tmp_path_factory):
    """Return the folder of commands that do not import torch each time."""
    from helpers.commands import install_fast_commands

    folder = tmp_path_factory.mktemp("bin")
    server = install_fast_commands(folder)
    yield folder
    server.process.kill()
    server.process.join()


@pytest.fixture
def fast_path(fast_commands, monkeypatch):
    """Put the fast commands first on the path."""
    monkeypatch.setenv("PATH", f"{fast_commands}:{os.environ['PATH']}")

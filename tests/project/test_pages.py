"""The commands of the README and the pages of ``docs`` run as they are printed.

Each page runs in one workspace with toys in place of the encoders and the data that it
names; the first pages prepare data for the others. ``NOT_RUN`` lists the commands that
need a network, hours or a GPU, with what covers them instead. The tests of the losses,
the classifier, Hugging Face and your own objective run the Python code of their pages.
"""

import os
import re
import shutil

import pytest

from helpers import ROOT, run_process

# Those first that prepare data for the others.
FIRST = [ROOT / "README.md", ROOT / "docs/data.md", ROOT / "docs/augmentation.md"]
PAGES = [*FIRST, *sorted({*(ROOT / "docs").glob("*.md")} - {*FIRST})]
BLOCK = re.compile(r"```bash\n(.*?)```", re.DOTALL)
# Prefixes of commands.
NOT_RUN = {
    "make ": "installs; .ci/run and the quick start run them",
    "pip install": "needs a package index; test_packaging.py, marked slow",
    "env -u CUDA_HOME pip": "the same",
    ". .venv/bin/activate": "the tests' own environment is active",
    "fairseq-scl download": "needs a network; data/test_download.py",
    "fairseq-scl quickstart": "needs a network; experiments/test_quickstart.py",
    "ENCODER=": "hours; test_scripts.py",
    "TABLE=": "hours; test_scripts.py",
    "FORWARD=": "hours; test_scripts.py",
    "fairseq-scl noise data-bin/augmented": "reads what FORWARD=… writes",
    "fairseq-scl report table4": "reads the results of hours; report/",
    "fairseq-scl export --results": "reads the results of hours; cli/",
    "fairseq-scl export --format huggingface --results": "the same",
    "fairseq-scl analyze": "reads the models of hours; report/test_analysis.py",
    "fairseq-scl exits": "reads models of an hour; objectives/test_early_exit.py",
    "fairseq-train data-bin/mine --arch roberta_bert --head-pooling": "has an ellipsis",
    "optimum-cli": "needs optimum, which is not a dependency",
    "curl": "needs the server of the page; inference/test_classifier.py",
    "python -m pytest": "these are tests",
    "FAIRSEQ_SCL_SEEDS=FOLDER": "a test that needs the paper's files",
    "python docs/differences.py": "overwrites its picture; test_docs.py",
    "fairseq-scl run table5": "needs all ten samples augmented; test_scripts.py",
    "fairseq-scl run table4 --data data-bin --model encoder": "reads a real encoder",
    "fairseq-scl run table4 --data data-bin --model roberta.large --precision bf16 "
    "--executor slurm": "needs Slurm; experiments/test_slurm.py",
    "tests/slurm/": "needs root; make test-slurm",
    "export SLURM_CONF": "the same",
    "sinfo": "the same",
    "fairseq-scl convert --from hf": "needs a downloaded model; cli/test_cli.py",
    "python -m benchmarks.accuracy": "hours; project/test_benchmarks.py",
    "fairseq-scl run mean.yaml": "needs a GPU; experiments/test_sweep.py",
    "fairseq-scl run grid.yaml": "needs the table above it; the same",
    "fairseq-scl run bt.yaml": "the same",
    "apertium": "is not a dependency",
    "CORPUS=corpus": "needs its output; project/test_scripts.py",
    "fairseq-scl prepare --sample data-bin/SST-2 --augmented data-bin/augmented/SST-2 "
    "--encoder minilm": "needs what FORWARD=… writes",
    "fairseq-scl prepare --table TREC.csv": "reads a file of another repository",
    "fairseq-scl run penalty.yaml": "experiments/test_own_objective.py",
}
# Hours on a GPU: only the training commands are printed.
RUN, ON_A_GPU, PRINTED = "fairseq-scl run ", " --precision bf16", " --dry-run"


def commands(page):
    """Return the commands of a page, each on one line without comments."""
    text = "\n".join(BLOCK.findall(page.read_text("utf-8")))
    lines = re.sub(r"(\\|\|)\n\s*", lambda m: m[1].strip("\\"), text).splitlines()
    lines = [re.sub(r"\s+#.*", "", line) for line in lines]
    return [line for line in lines if line.strip() and not line.startswith("#")]


def runs(command):
    return not command.startswith(tuple(NOT_RUN)) and "…" not in command


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Return a folder with everything that the pages expect, as toys."""
    from fairseq_scl.convert.huggingface import convert_encoder
    from fairseq_scl.data.binarize import binarize
    from fairseq_scl.experiments.results_folder import BEST
    from helpers import encoders
    from helpers.huggingface import write_source
    from helpers.tables import write_labeled
    from helpers.tasks import write
    from helpers.texts import write_split
    from helpers.translation import make_toy_models

    place = tmp_path_factory.mktemp("workspace")
    data_bin = place / "data-bin"
    for name in ("minilm", "roberta.base", "roberta.large"):
        cached = place / "cache" / "fairseq-scl" / "encoders" / name
        shutil.copytree(encoders.toy_encoder(), cached)
    # The pages print the shape of the quick start's encoder.
    shape = {"num_hidden_layers": 6, "hidden_size": 384, "intermediate_size": 1536}
    shape |= {"num_attention_heads": 12, "max_position_embeddings": 512}
    quick_start = data_bin / "quickstart"
    convert_encoder(
        encoders.make_bert(place / "bert", **shape), quick_start / "encoder"
    )
    splits = encoders.make_splits(train=100, valid=20, test=20)
    sample = quick_start / "data" / "movie-reviews" / "n100-sample0"
    binarize(splits, quick_start / "encoder", sample)
    shutil.copytree(encoders.toy_data(), data_bin / "mine")
    for folder in (place / "models" / "mine", quick_start / "classifier"):
        shutil.copytree(encoders.toy_model(), folder)
    checkpoint = place / "checkpoints" / "mine" / "checkpoint_best.pt"
    checkpoint.parent.mkdir(parents=True)
    shutil.copyfile(encoders.trained()[1] / BEST, checkpoint)
    kind = "BertForSequenceClassification"
    write_source(place / "path" / "to" / "hf-folder", name=kind)
    for split, count in (("train", 67349), ("dev", 872)):
        rows = [f"{letters(i)} \t{i % 2}" for i in range(count)]
        write(data_bin / "glue/SST-2" / f"{split}.tsv", "sentence\tlabel", *rows)
    for source, target in (("en", "de"), ("de", "en")):
        folder = make_toy_models(place / "mt" / f"{source}-{target}", source, target)
        (folder / "bpecodes").write_text("#version: 0.2\nz z\n")
    every = encoders.make_sentences(1300)
    for name, examples, columns in (
        ("reviews.csv", every[:80], ("text", "label")),
        ("ratings.csv", every, ("review", "stars")),
        ("other-reviews.csv", every[:40], ("text", "label")),
        ("new-reviews.csv", every[:40], ("text", "id")),
        ("tickets.jsonl", every[:80], ("subject", "queue")),
    ):
        write_labeled(place / name, examples, columns)
    for split, examples in splits.items():
        write_split(place / "my-texts", split, examples)
    for name in ("sentences.txt", "new-reviews.txt"):
        (place / name).write_text("a good film\na dull story\n", "utf-8")
    return place


def letters(number):
    """Write a number in words that the toy translation models know."""
    words = "abcdefghijklmnopqrst"
    return " ".join(words[number // 20**power % 20] for power in range(4))


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_of_the_page_run(page, workspace, fast_path):
    for command in filter(runs, commands(page)):
        if command.startswith(RUN):
            command = command.replace(ON_A_GPU, PRINTED)
        done = run_process(
            *["bash", "-euo", "pipefail", "-c", command],
            cwd=workspace,
            env=os.environ | {"XDG_CACHE_HOME": str(workspace / "cache")},
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


def test_every_exception_is_on_a_page():
    every = [command for page in PAGES for command in commands(page)]
    assert [c for c in NOT_RUN if not any(e.startswith(c) for e in every)] == []

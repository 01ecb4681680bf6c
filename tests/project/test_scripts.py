"""The table scripts, from official files to the report, on toy data."""

import os
import shutil

import pytest

from fairseq_scl.cli import main
from fairseq_scl.data.binarize import read_examples
from fairseq_scl.data.files import read_json
from helpers import ROOT, run_process
from helpers.encoders import toy_encoder
from helpers.outputs import rows_of, write_outputs
from helpers.published import published_files
from helpers.tasks import write_sst2

SCRIPTS = sorted((ROOT / "scripts").glob("*.sh"))
# Not what a user runs for a result: it sets up .venv.
# What sets up a machine is longer than what makes a result.
SETUP = ("install.sh", "gpu_wheels.sh", "on_gpu.sh")
RESULTS = [path for path in SCRIPTS if path.name not in SETUP]


def run(script, cwd, *options, **environment):
    if shutil.which("fairseq-scl") is None:
        pytest.skip("fairseq-scl is not on the PATH")
    return run_process(
        *["bash", ROOT / "scripts" / script, *options],
        cwd=cwd,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.name)
def test_scripts_are_short_and_have_a_header(path):
    text = path.read_text("utf-8")
    assert len(text.splitlines()) < 40
    assert text.startswith("#!/usr/bin/env bash\n# ")
    for word in ("# Usage:", "# Writes:", "ost:", "set -euo pipefail"):
        assert word in text, word
    assert os.access(path, os.X_OK)


def test_table4_goes_from_the_files_to_the_report(tmp_path, fast_path):
    done = run(
        *("table4.sh", tmp_path, "--smoke", "--jobs", "2"),
        *("--device", "cpu", "--only", "n=20"),
        ENCODER=str(toy_encoder()),
        GLUE=str(write_sst2(tmp_path / "glue")),
        TASKS="SST-2",
        SIZES="20",
        PREPARE="--partial --size-valid 8 --size-test 8",
    )
    assert done.returncode == 0, done.stderr
    assert "6 of 6 runs are done" in done.stdout
    assert "| 20 | CE+SCL |" in done.stdout
    assert "88.1 ± 3.3" in done.stdout
    results = tmp_path / "outputs" / "table4-smoke"
    for name in ("table.md", "table.tex", "table.csv", "runs.csv", "report.html"):
        assert (results / name).stat().st_size > 0


def test_table4_starts_from_the_name_of_an_encoder(tmp_path, fast_path):
    place = tmp_path / "cache" / "fairseq-scl" / "archives"
    place.mkdir(parents=True)
    for name, content in published_files().items():
        (place / name.rpartition("/")[2]).write_bytes(content)
    done = run(
        *("table4.sh", tmp_path, "--smoke", "--jobs", "2"),
        *("--device", "cpu", "--only", "n=20,loss=CE", "--set", "max_positions=16"),
        ENCODER="roberta.base",
        XDG_CACHE_HOME=str(tmp_path / "cache"),
        GLUE=str(write_sst2(tmp_path / "glue")),
        TASKS="SST-2",
        SIZES="20",
        PREPARE="--partial --max-unknown 1 --size-valid 8 --size-test 8",
    )
    assert done.returncode == 0, done.stderr
    assert "3 of 3 runs are done" in done.stdout


@pytest.fixture
def augmented(tmp_path):
    """Scripts whose back-translation copies hand-written files."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    by_hand = tmp_path / "scripts" / "backtranslate.sh"
    by_hand.write_text(
        "#!/usr/bin/env bash\nset -euo pipefail\n[[ -n $FORWARD && -n $BACKWARD ]]\n"
        'mkdir -p "$AUGMENTED"\ncp -r "$BY_HAND/." "$AUGMENTED"\n',
        "utf-8",
    )
    by_hand.chmod(0o755)
    glue = write_sst2(tmp_path / "glue", train=240)
    drawn, by_hand = tmp_path / "data-bin" / "SST-2", tmp_path / "by hand" / "SST-2"
    options = "--few-shot 100 --samples 3 --partial --size-valid 8 --size-test 8"
    words = ["prepare", "--task", "SST-2", "--from", glue, "--to", drawn]
    words += ["--encoder", toy_encoder(), *options.split()]
    assert main([str(word) for word in words]) == 0
    for number in range(3):
        name = f"n100-sample{number}"
        rows = rows_of(read_examples(drawn / name, "train"))
        for temperature in ("0.3", "0.9"):
            write_outputs(by_hand / f"{name}-bt{temperature}.jsonl", rows)
    return {
        "ENCODER": str(toy_encoder()),
        "GLUE": str(glue),
        "TASKS": "SST-2",
        "FORWARD": "there",
        "BACKWARD": "back",
        "BY_HAND": str(by_hand.parent),
    }


def test_table5_goes_from_the_samples_to_the_report(tmp_path, augmented, fast_path):
    done = run(
        *(tmp_path / "scripts" / "table5.sh", tmp_path, "--smoke", "--jobs", "2"),
        *("--device", "cpu", "--only", "temperature=0.9"),
        **augmented,
    )
    assert done.returncode == 0, done.stderr
    assert "6 of 6 runs are done" in done.stdout
    assert "wrote outputs/table5/noise.json" in done.stdout
    whole = (tmp_path / "outputs" / "table5-smoke" / "table.md").read_text("utf-8")
    printed, cells = (
        [cell.strip() for cell in line.strip("|").split("|")]
        for text in (done.stdout, whole)
        for line in text.splitlines()
        if line.startswith("| SST-2 | CE+SCL |")
    )
    assert (len(printed), printed[3]) == (4, "91.5 ± 1.0")  # only the selected runs
    assert cells[2:4] == ["– (0 of 3)", "92.8 ± 1.3"]
    assert "±" in cells[10]
    assert cells[-2:] == ["– (1 of 4)", "91.7 ± 1.0"]
    data = tmp_path / "data-bin" / "SST-2"
    assert read_json(data / "n100-sample0-bt0.9" / "manifest.json")["examples"] == {
        **{"train": 400, "valid": 8, "test": 8}
    }
    results = tmp_path / "outputs" / "table5-smoke"
    for name in ("table.md", "table.tex", "table.csv", "runs.csv", "report.html"):
        assert (results / name).stat().st_size > 0


def test_compare_goes_from_the_files_to_the_curves(tmp_path, fast_path):
    done = run(
        *("compare.sh", tmp_path, "--smoke", "--jobs", "2", "--device", "cpu"),
        *("--only", "flipped=0.1,loss=CE|CAPCORT-MLP|ACL-Embed+Grad"),
        ENCODER=str(toy_encoder()),
        GLUE=str(write_sst2(tmp_path / "glue", train=240)),
        PREPARE="--partial --samples 3 --size-valid 8 --size-test 8",
    )
    assert done.returncode == 0, done.stderr
    assert "9 of 9 runs are done" in done.stdout
    assert "| SST-2 | 0.1 | ACL-Embed+Grad − CE | 3 of 3 |" in done.stdout
    assert "| – | – | before | – |" in done.stdout
    assert "| SST-2 | 0.1 | CAPCORT-MLP | 3 of 3 |" in done.stdout
    results = tmp_path / "outputs" / "compare-smoke"
    page = (results / "report.html").read_text("utf-8")
    assert "against the share of flipped training labels" in page
    assert "silhouette_mean" in (results / "table.csv").read_text("utf-8")
    for name in ("analysis.md", "analysis.json", "table.tex"):
        assert (results / name).stat().st_size > 0


@pytest.mark.parametrize("script", ["figure2.sh", "table7.sh"])
def test_models_are_of_this_call_and_trial_ones_apart(tmp_path, script):
    stand_in = tmp_path / "bin" / "fairseq-scl"
    stand_in.parent.mkdir()
    stand_in.write_text(
        '#!/usr/bin/env bash\necho "$*"\n'
        'for word; do [[ $word != outputs/* ]] || mkdir -p "$word"; done\n',
        "utf-8",
    )
    stand_in.chmod(0o755)
    path = f"{stand_in.parent}:{os.environ['PATH']}"
    calls = [
        [line.split() for line in done.stdout.splitlines()]
        for options in ([], [], ["--smoke"])
        if (done := run(script, tmp_path, *options, PATH=path, ENCODER="e"))
    ]
    verbs = [[words[0] for words in call if words[0] != "download"] for call in calls]
    assert verbs[0] == verbs[1] == verbs[2]  # also where the models are there already
    assert "export" in verbs[0]
    real, trial = (
        {w.partition("=")[2] or w for words in call for w in words if "outputs/" in w}
        for call in calls[1:]
    )
    assert not real & trial
    assert all("--smoke" in words for words in calls[2] if words[0] == "run")


def test_table6_shows_sentences_and_their_noise(tmp_path, augmented, fast_path):
    script = tmp_path / "scripts" / "table6.sh"
    done = run(script, tmp_path, "--examples", "1", **augmented)
    assert done.returncode == 0, done.stderr
    assert "| SST-2 | Augmented (T=0.9) |" in done.stdout
    for name in ("noise.md", "noise.csv", "noise.html", "noise.json"):
        assert (tmp_path / "outputs" / "table6" / name).stat().st_size > 0


@pytest.mark.parametrize(
    "script", ["table4.sh", "table5.sh", "table6.sh", "compare.sh"]
)
def test_missing_encoder_is_named(tmp_path, fast_path, script):
    done = run(script, tmp_path, ENCODER="")
    assert done.returncode != 0
    assert "ENCODER: set it to an encoder folder or name" in done.stderr
    done = run(script, tmp_path, ENCODER="nowhere")
    assert "'nowhere': there is no such folder, and the known names" in done.stderr

"""``fairseq-scl``: help, versions, exit statuses, sentences instead of tracebacks."""

import ast
import gzip
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import fairseq_scl
from fairseq_scl import cli
from fairseq_scl.cli import VERBS, doctor, main
from fairseq_scl.data.binarize import fairseq_flags
from fairseq_scl.experiments.architecture import architecture_flags
from fairseq_scl.experiments.results_folder import BEST
from fairseq_scl.experiments.tables import table_names
from fairseq_scl.inference.model_folder import load_classifier
from helpers import run_process
from helpers.encoders import (
    make_pairs,
    make_splits,
    toy_bert,
    toy_data,
    toy_encoder,
    toy_model,
    trained,
)
from helpers.fresh import run_fresh
from helpers.texts import write_split


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(run, verb):
    status, out, _ = run(verb, "--help")
    assert status == 0
    assert out.startswith(f"usage: fairseq-scl {verb} ")
    flat = " ".join(out.split())
    assert VERBS[verb][1:] in flat
    assert "==SUPPRESS==" not in flat
    assert "None" not in flat


def test_help_shows_defaults_as_they_are_typed(run):
    for verb, shown in (
        ("compare", "baseline (default: ce scl)"),
        ("backtranslate", "(default: 0.3 0.5 0.7 0.9)"),
        ("train", "training (default: 0)"),
        ("train", "auto = cuda if there is a GPU, otherwise cpu (default: auto)"),
        ("train", "--device {auto,cpu,cuda}"),
        ("run", ", ".join(table_names()) + ", or a YAML file"),
    ):
        assert shown in " ".join(run(verb, "--help")[1].split())


def test_help_lists_every_verb(run):
    status, out, _ = run("--help")
    assert status == 0
    for verb, text in VERBS.items():
        assert re.search(rf"^ +{verb}( |$)", out, re.MULTILINE)
        assert "".join(text.split()) in "".join(out.split())  # wrapped, also at hyphens


def test_version(run):
    assert run("--version")[:2] == (0, f"fairseq-scl {fairseq_scl.__version__}\n")


@pytest.mark.parametrize("argv", [[], ["train"], ["predict"], ["predict", "--no"]])
def test_a_wrong_command_line_is_refused_with_status_2(run, argv):
    status, out, error = run(*argv)
    assert (status, out) == (2, "")
    assert error.startswith("fairseq-scl")
    assert ": error: " in error


@pytest.mark.parametrize(
    ("verb", "flag", "values", "twice"),
    [
        ("backtranslate", "--sample", ["a", "b", "a"], "'a'"),
        ("backtranslate", "--temperature", ["0.3", "0.30"], "'0.3'"),
        ("compare", "--objectives", ["ce", "scl", "ce"], "'ce'"),
        ("convert", "--vocab", ["a", "a"], "'a'"),
        ("download", "--task", ["RTE", "RTE"], "'RTE'"),
        ("evaluate", "--columns", ["s", "l", "s"], "'s'"),
        ("noise", "--temperatures", ["0.3", "0.3"], "'0.3'"),
        ("predict", "--columns", ["s", "s"], "'s'"),
        ("predict", "--echo", ["s", "s"], "'s'"),
        ("prepare", "--columns", ["s", "l", "s"], "'s'"),
        ("prepare", "--few-shot", ["20", "020"], "'20'"),
        ("prepare", "--flip-labels", ["0.1", ".1"], "'0.1'"),
        ("train", "--columns", ["s", "s", "l"], "'s'"),
    ],
)
def test_a_value_that_is_repeated_is_named(refusal, verb, flag, values, twice):
    error = refusal(verb, flag, *values)
    assert error == f"fairseq-scl: error: {flag} has {twice} twice: give it once"


def test_versions_are_those_that_doctor_prints(run):
    status, out, _ = run("doctor", "--versions")
    assert status == 0
    lines = run("doctor")[1].splitlines()
    assert out.splitlines() == [
        line for line in lines[:-1] if not line.startswith(("cuda ", "gpus "))
    ]


def test_user_dir_is_the_package(run):
    status, out, _ = run("user-dir")
    assert (status, out) == (0, f"{Path(fairseq_scl.__file__).parent}\n")


def test_doctor_finds_no_problem_here(run):
    status, out, _ = run("doctor")
    assert status == 0
    assert out.endswith("no problems found\n")
    rows = dict(line.split(maxsplit=1) for line in out.splitlines()[:-1])
    assert rows["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"torch", "fairseq", "tokenizers", "cuda"} <= rows.keys()


def test_only_doctor_and_user_dir_work_without_fairseq():
    """In a process in which fairseq cannot be imported and is not installed."""
    code = (
        "import sys, importlib.metadata as metadata\n"
        "sys.modules['fairseq'] = None\n"
        "real = metadata.version\n"
        "def version(name):\n"
        "    if name.startswith('fairseq') and name != 'fairseq-scl':\n"
        "        raise metadata.PackageNotFoundError(name)\n"
        "    return real(name)\n"
        "metadata.version = version\n"
        "from fairseq_scl.cli import VERBS, WITHOUT_FAIRSEQ, main\n"
        "import fairseq_scl.losses\n"
        "others = [verb for verb in VERBS if verb not in WITHOUT_FAIRSEQ]\n"
        "refused = {main([verb, '--help']) for verb in others}\n"
        "print(main(['user-dir']), main(['doctor']), refused)\n"
    )
    ended = run_fresh(code, cwd=Path(fairseq_scl.__file__).parents[1])
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.endswith("0 1 {2}\n")
    assert "problem: fairseq is not installed: pip install " in ended.stdout
    (error,) = set(ended.stderr.splitlines())
    assert error.startswith("fairseq-scl: error: fairseq is not installed: pip install")


def end_with(error, monkeypatch):
    def raised(arguments):
        raise error

    monkeypatch.setattr(doctor, "run", raised)


@pytest.mark.parametrize("verb", ["doctor", *cli.TRAINING])
def test_control_c_while_training_says_how_to_resume(run, monkeypatch, verb):
    def interrupt(argv):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_run", interrupt)
    how = "; run the same command again to resume" if verb in cli.TRAINING else ""
    assert run(verb) == (130, "", f"fairseq-scl: interrupted{how}")


@pytest.mark.parametrize(
    ("verb", "is_terminal", "told"),
    [("run", True, True), ("run", False, False), ("user-dir", True, False)],
)
def test_a_person_is_told_why_the_start_takes_long(
    monkeypatch, capfd, verb, is_terminal, told
):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    with pytest.raises(SystemExit):
        main([verb, "--no-such-flag"])
    assert ("loading PyTorch, fairseq" in capfd.readouterr().err) == told


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError(13, "Permission denied", "a/b"), ("a/b", "Permission denied")),
        (OSError(40, "Too many levels of symbolic links", b"x"), ("x: Too many",)),
        (OSError(18, "Invalid cross-device link", "x", None, "y"), ("x -> y",)),
        (OSError(28, "No space left on device"), ("No space left",)),
        (gzip.BadGzipFile("Not a gzipped file"), ("Not a gzipped file",)),
        (UnicodeDecodeError("utf-8", b"ab\xff", 2, 3, "invalid start"), ("byte 3",)),
        (UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogate"), ("'\\udcff'",)),
        (RuntimeError("Symlink loop from 'a'"), ("loop from 'a'",)),
        (MemoryError(), ("memory",)),
        (RuntimeError("can't allocate memory: 9 bytes"), ("memory",)),
    ],
)
def test_foreseeable_errors_end_with_one_sentence(run, monkeypatch, error, words):
    end_with(error, monkeypatch)
    status, out, line = run("doctor")
    assert (status, out) == (2, "")
    assert line.startswith("fairseq-scl: error: ")
    assert all(word in line for word in words)


@pytest.mark.parametrize("error", [KeyError("a"), RuntimeError("b"), ValueError("c")])
def test_a_bug_shows_its_traceback_and_where_to_report_it(monkeypatch, capfd, error):
    end_with(error, monkeypatch)
    assert main(["doctor"]) == 1
    first, *_, raised, last = capfd.readouterr().err.splitlines()
    assert first.startswith("Traceback")
    assert raised == f"{type(error).__name__}: {error}"
    assert "issue tracker" in last
    assert "fairseq-scl doctor" in last


@pytest.mark.parametrize(
    ("redirection", "status", "words"),
    [
        ("< /dev/null >&-", 2, "Bad file descriptor"),
        ("<&- > /dev/full", 2, "No space left on device"),
        ("<&- >&- 2>&-", 2, ""),
        ("2>&-", 0, ""),
    ],
)
def test_streams_that_are_closed_or_full(redirection, status, words):
    line = f'"{sys.executable}" -m fairseq_scl.cli user-dir {redirection}'
    ended = subprocess.run(line, shell=True, capture_output=True, text=True)
    assert ended.returncode == status
    assert words in ended.stderr
    assert len(ended.stderr.splitlines()) == bool(words)


def run_python(code, *arguments):
    return run_process(sys.executable, "-c", code, *arguments)


INTERRUPTED = """
import os, signal, sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
signal.signal(signal.SIGINT, signal.default_int_handler)  # nohup ignores it
from fairseq_scl.cli import main
sys.exit(main([sys.argv[2], "--help"]))
"""


@pytest.mark.parametrize(
    ("module", "start", "verb", "how"),
    [
        ("torch.nn", run_python, "predict", ""),
        ("fairseq.criterions", run_fresh, "predict", ""),
        ("torch.nn", run_python, "train", "; run the same command again to resume"),
    ],
)
def test_control_c_while_starting(module, start, verb, how):
    """Among the imports, some of which turn KeyboardInterrupt into other errors."""
    ended = start(INTERRUPTED, module, verb)
    assert (ended.returncode, ended.stdout) == (130, "")
    assert ended.stderr == f"fairseq-scl: interrupted{how}\n"


HEAVY = ("torch", "fairseq", "numpy", "scipy", "sklearn", "torch._dynamo")
HEAVY += ("matplotlib", "pandas", "sympy", "transformers")


def imported_by(code, start=run_fresh):
    """Return which heavy modules a process started by ``start`` has after the code."""
    tell = f"import sys; print([m for m in {HEAVY} if m in sys.modules])"
    ended = start(f"{code}\n{tell}")
    assert ended.returncode == 0, ended.stderr
    return ast.literal_eval(ended.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["user-dir"], ["doctor", "--versions"]]
)
def test_small_answers_import_nothing_heavy(arguments):
    code = f"""if True:
        from fairseq_scl.cli import main
        try:
            main({arguments})
        except SystemExit:
            pass
    """
    assert imported_by(code, run_python) == []


def test_predict_imports_no_metrics_no_compiler_and_little_beside_fairseq(tmp_path):
    """From start to answer."""
    (tmp_path / "a.txt").write_text("a film\n")
    argv = ["predict", "--model", str(toy_model()), "--device", "cpu"]
    code = f"""if True:
        import fairseq_scl, fairseq, sys
        before = len(sys.modules)
        from fairseq_scl.cli import main
        assert main({[*argv, str(tmp_path / "a.txt")]}) == 0
        assert len(sys.modules) - before < 100
    """
    assert imported_by(code) == ["torch", "fairseq", "numpy"]


def test_importing_fairseq_does_not_configure_logging():
    code = (
        "import fairseq_scl, fairseq, logging\n"
        "assert logging.root.level == logging.WARNING\n"
        "assert logging.root.handlers == []"
    )
    assert "fairseq" in imported_by(code)


@pytest.mark.parametrize("order", ["fairseq_scl, fairseq", "fairseq, fairseq_scl"])
def test_fairseq_knows_the_plug_in_in_either_order_of_imports(order):
    code = (
        f"import {order}\n"
        "from fairseq.criterions import CRITERION_REGISTRY\n"
        "assert 'sentence_prediction_scl' in CRITERION_REGISTRY\n"
        "from fairseq.criterions.sentence_prediction import f1_score\n"
        "assert f1_score([1, 0, 1], [1, 1, 1]) == 0.8\n"
        "import sklearn.metrics, scipy.stats\n"
        "assert f1_score([0, 1], [0, 1]) == sklearn.metrics.f1_score([0, 1], [0, 1])"
    )
    assert "sklearn" in imported_by(code)


def test_output_is_utf_8_in_any_locale():
    code = (
        "import sys; from fairseq_scl import cli\n"
        "from fairseq_scl.cli import doctor\n"
        "doctor.run = lambda _: print('\\u00e9 \\u20ac')\n"
        "cli.main(['doctor'])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": ""},
        check=False,
    )
    assert (ended.stdout, ended.stderr) == ("é €\n".encode(), b"")


def test_convert_prepare_export_and_predict_work_together(run, tmp_path):
    """The flags that two verbs print are those with which the run was trained."""
    _, checkpoint_folder, record = trained()
    for split, examples in make_splits().items():
        write_split(tmp_path / "text", split, examples)

    status, out, _ = run("convert", "--from", toy_bert(), "--to", tmp_path / "encoder")
    assert status == 0
    assert out.startswith(f"wrote {tmp_path / 'encoder'}: roberta_bert, 2 layers, ")
    printed = out.splitlines()[-1].removeprefix("flags for fairseq-train: ")
    assert shlex.split(printed) == architecture_flags(toy_encoder(), 512)

    data = tmp_path / "data"
    status, out, _ = run(
        *["prepare", "--text", tmp_path / "text", "--encoder", tmp_path / "encoder"],
        *["--to", data],
    )
    assert (status, out.splitlines()) == (
        0,
        [
            f"wrote {data}: 16 train, 8 valid, 8 test",
            "unknown tokens: 0.00% train, 0.00% valid, 0.00% test",
            "classes: 0 = negative, 1 = positive",
            "flags for fairseq-train: --num-classes 2 --init-token 0",
        ],
    )
    assert fairseq_flags(data) == fairseq_flags(toy_data())
    start = record.argv.index("--num-classes")
    assert record.argv[start : start + 4] == fairseq_flags(data)

    status, out, _ = run(
        *["export", "--checkpoint", checkpoint_folder / BEST, "--data", data],
        *["--to", tmp_path / "model"],
    )
    assert (status, out) == (0, f"wrote {tmp_path / 'model'}\n")
    assert load_classifier(tmp_path / "model").labels == ["negative", "positive"]


def test_prepare_accepts_pairs_and_a_training_set_without_others(run, tmp_path):
    write_split(tmp_path / "text", "train", make_pairs(9))
    status, out, _ = run(
        *["prepare", "--text", tmp_path / "text", "--encoder", toy_encoder()],
        *["--to", tmp_path / "data"],
    )
    assert status == 0
    assert out.splitlines()[0] == f"wrote {tmp_path / 'data'}: 9 train"
    assert (tmp_path / "data" / "input1" / "train.bin").is_file()

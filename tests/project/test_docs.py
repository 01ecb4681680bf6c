"""Files, links, verbs and flags named in the documentation exist."""

import argparse
import importlib
import inspect
import re
import sys
from pathlib import Path

import pytest
from fairseq import options
from fairseq.criterions import CRITERION_DATACLASS_REGISTRY, CRITERION_REGISTRY
from fairseq.models import MODEL_REGISTRY
from fairseq.models.roberta import RobertaModel
from fairseq.registry import REGISTRIES
from fairseq.tasks import TASK_DATACLASS_REGISTRY

import fairseq_scl
from fairseq_scl.cli import VERBS
from helpers import ROOT, run_process
from helpers.outputs import size_of_png

PAGES = [
    page
    for page in (ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*"))
    if page.suffix == ".md" and page.is_file()
]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
# A path in the project starts with one of its folders; outputs of runs are not matched.
PATH = re.compile(
    r"(?<![\w/.$\"-])((?:fairseq_scl|tests|docs|scripts|benchmarks|\.ci)"
    r"/[\w./-]*[\w/])"
)
USER_DIR_PATH = re.compile(r"\$\(fairseq-scl user-dir\)/([\w./-]*[\w/])")
COMMAND = re.compile(r"fairseq-scl ([a-z][a-z-]*)((?:[^\n`|]|\\\n)*)")
FLAG = re.compile(r"(?<![\w-])--[a-z][\w-]*")
TRAINING = re.compile(r"(?:fairseq-train|fairseq_cli\.train)((?:[^\n`|]|\\\n)*)")


def text_of(page):
    return page.read_text("utf-8")


def commands(page):
    """Return the verb and flags of each ``fairseq-scl VERB …`` on a page."""
    text = text_of(page).replace('"$(fairseq-scl user-dir)', '"')
    return [
        (found[1], FLAG.findall(found[2].split(" -- ")[0]))
        for found in COMMAND.finditer(text)
    ]


def parser_of(verb):
    parser = argparse.ArgumentParser()
    importlib.import_module(f"fairseq_scl.cli.{verb.replace('-', '_')}").add_arguments(
        parser
    )
    return parser


def training_flags():
    """Return all flags of ``fairseq-train`` with any criterion of our plug-in."""
    return set().union(*map(flags_with, own_criterions()))


def own_criterions():
    return [
        name
        for name, criterion in CRITERION_REGISTRY.items()
        if criterion.__module__.startswith("fairseq_scl.")
    ]


def flags_with(criterion):
    """Return all flags with a criterion and any architecture."""
    parser = options.get_training_parser()
    chosen = ["data", "--arch", "roberta_multi_exit", "--optimizer", "adam"]
    chosen += ["--task", "sentence_prediction_scl"]
    chosen += ["--lr-scheduler", "polynomial_decay"]
    chosen += ["--criterion", criterion, "--num-classes", "2"]
    known = set()
    add = argparse._ActionsContainer._add_action

    def note(container, action):
        known.update(action.option_strings)
        return add(container, action)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse._ActionsContainer, "_add_action", note)
        options.parse_args_and_arch(parser, input_args=chosen)
    known.update(s for action in parser._actions for s in action.option_strings)
    return known | {"--user-dir", "--help"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_resolve(page):
    for link in LINK.findall(text_of(page)):
        if not link.startswith(("http://", "https://", "mailto:")):
            file, _, heading = link.partition("#")
            target = page.parent / file if file else page
            assert target.exists(), f"{page.name}: {link}"
            if heading:
                assert heading in anchors(target), f"{page.name}: {link}"


def anchors(page):
    """Return GitHub's anchors for the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", text_of(page), re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_files_exist(page):
    package = Path(fairseq_scl.__file__).parent
    text = text_of(page)
    missing = [path for path in PATH.findall(text) if not (ROOT / path).exists()]
    missing += [
        path for path in USER_DIR_PATH.findall(text) if not (package / path).exists()
    ]
    # Hydra takes folder and file name separately
    names = re.findall(r"--config-name (\w+)", text)
    missing += [n for n in names if not list(package.rglob(f"{n}.yaml"))]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_verbs_and_their_flags_exist(page):
    for verb, flags in commands(page):
        assert verb in VERBS, f"{page.name}: fairseq-scl {verb}"
        known = {
            s for action in parser_of(verb)._actions for s in action.option_strings
        }
        assert set(flags) <= known, f"{page.name}: fairseq-scl {verb}"


def test_training_flags_exist():
    known = training_flags()
    assert {"--scl-lambda", "--batching", "--layer-norm-eps"} <= known
    for page in PAGES:
        for found in TRAINING.finditer(text_of(page)):
            flags = set(FLAG.findall(found[1]))
            assert flags <= known, f"{page.name}: {sorted(flags - known)}"


def model_flags(model):
    parser = argparse.ArgumentParser(add_help=False)
    model.add_args(parser)
    return {flag for action in parser._actions for flag in action.option_strings}


def own_flags():
    """Return the flags that the plug-in adds to those of ``fairseq-train``."""
    registered = {
        **{name: CRITERION_DATACLASS_REGISTRY[name] for name in own_criterions()},
        "task": TASK_DATACLASS_REGISTRY["sentence_prediction_scl"],
        "optimizer": REGISTRIES["optimizer"]["dataclass_registry"]["fused_adam"],
    }
    flags = set()
    for config in registered.values():
        if config.__module__.startswith("fairseq_scl."):  # not fairseq's own
            added = inspect.get_annotations(config)  # not those of the class it extends
            flags |= {f"--{name.replace('_', '-')}" for name in added}
    for model in MODEL_REGISTRY.values():
        if model.__module__.startswith("fairseq_scl."):
            flags |= model_flags(model) - model_flags(RobertaModel)
    return flags


def test_every_flag_of_the_plug_in_is_documented():
    flags = own_flags()
    assert {"--scl-lambda", "--batching", "--layer-norm-eps"} <= flags
    text = " ".join(text_of(page) for page in PAGES if page.name != "CHANGELOG.md")
    assert sorted(flags - set(FLAG.findall(text))) == []


def test_every_verb_is_documented():
    every = " ".join(text_of(page) for page in PAGES)
    missing = [v for v in VERBS if not re.search(rf"[`\s]{v}[`\s]", every)]
    assert missing == []


def test_no_page_has_placeholders():
    # A name in capitals without a value, which excludes FAIRSEQ_SCL_DATA=FOLDER; the
    # installation unsets CUDA_HOME.
    blank = re.compile(r"\b(?!CUDA_HOME\b)(?:TODO|FIXME|XXX|[A-Z]+_[A-Z_]{3,})\b(?!=)")
    for page in PAGES:
        assert blank.findall(text_of(page)) == [], page.name


def test_the_first_table_and_picture_of_the_results_are_of_the_recorded_counts(
    tmp_path,
):
    docs, picture = ROOT / "docs", tmp_path / "differences.png"
    done = run_process(sys.executable, docs / "differences.py", picture)
    assert done.returncode == 0, done.stderr
    assert f"\n\n{done.stdout}\n" in text_of(docs / "results.md")
    assert size_of_png(picture) == size_of_png(docs / picture.name)

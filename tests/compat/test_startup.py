"""What runs at the start of Python 3.14, tried on every version."""

import argparse
import builtins
import importlib.util
import os
import sys
from types import SimpleNamespace

import pytest

from helpers import ROOT, run_process

STARTUP = ROOT / "fairseq_scl" / "compat" / "startup" / "fairseq_scl_startup.py"


@pytest.fixture
def startup(monkeypatch):
    """Return a fresh copy of the module, whose finder is removed after the test."""
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    spec = importlib.util.spec_from_file_location("startup_of_this_test", STARTUP)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("version", "switch", "runs"),
    [
        ((3, 13, 9), None, False),
        ((3, 14, 0), None, True),
        ((3, 14, 0), "1", True),
        ((3, 14, 0), "0", False),
    ],
)
def test_start_up_file_imports_the_module_where_needed(
    monkeypatch, version, switch, runs
):
    monkeypatch.setattr(sys, "version_info", version)
    monkeypatch.delenv("FAIRSEQ_SCL_STARTUP", raising=False)
    if switch is not None:
        monkeypatch.setenv("FAIRSEQ_SCL_STARTUP", switch)
    imported = []

    def record(name, *rest):
        imported.append(name)
        return None if name == STARTUP.stem else __import__(name, *rest)

    line = STARTUP.with_suffix(".pth").read_text("utf-8")
    exec(line, {"__builtins__": {**vars(builtins), "__import__": record}})
    assert imported == ["os", "sys"] + runs * [STARTUP.stem]


def test_optional_types_are_the_types_themselves(startup):
    fairseq = SimpleNamespace(interpret_dc_type=lambda kind: ("unchanged", kind))
    startup._accept_optional_types(fairseq)
    assert fairseq.interpret_dc_type(int | None) is int
    for kind in (int, int | str, list[int], "int"):
        assert fairseq.interpret_dc_type(kind) == ("unchanged", kind)


def test_help_may_be_an_object_in_the_parser_of_hydra_only(startup):
    class Parser(argparse.ArgumentParser):
        def _check_help(self, action):
            if not isinstance(action.help, str | None):
                raise ValueError("badly formed help string")

        def add_argument(self, *words, **settings):  # as in Python 3.14
            self._check_help(super().add_argument(*words, **settings))

    def get_args_parser():
        parser = Parser(add_help=False)
        parser.add_argument("--shell-completion", help=object())
        return parser

    hydra = SimpleNamespace(
        get_args_parser=get_args_parser,
        argparse=SimpleNamespace(ArgumentParser=Parser),
    )
    startup._accept_lazy_help(hydra)
    parser = hydra.get_args_parser()
    with pytest.raises(ValueError, match="badly formed"):
        parser.add_argument("--other", help=object())


def test_module_is_patched_right_after_it_is_loaded(startup, monkeypatch, tmp_path):
    (tmp_path / "late_module.py").write_text("value = 1\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    patch = {"late_module": lambda module: setattr(module, "value", module.value + 1)}
    monkeypatch.setattr(startup, "PATCHES", patch)
    late = importlib.import_module("late_module")
    monkeypatch.delitem(sys.modules, "late_module")
    assert late.value == 2
    assert late.__spec__.origin == str(tmp_path / "late_module.py")
    assert importlib.util.find_spec("no_module_of_this_name") is None


@pytest.mark.skipif(sys.version_info < (3, 14), reason="acts on Python 3.14 only")
def test_fairseq_depends_on_the_start_up_file():
    command = [sys.executable, "-c", "import fairseq.options"]
    for switch in ("0", "1"):
        ended = run_process(*command, env=os.environ | {"FAIRSEQ_SCL_STARTUP": switch})
        assert (ended.returncode == 0) == (switch == "1"), ended.stderr

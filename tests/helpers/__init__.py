"""Shared helpers of the tests: toy encoders, data, tables and records."""

import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def run_process(
    *command: object, **settings: Any
) -> "subprocess.CompletedProcess[str]":
    """Run a command; return its status and its output as text.

    Args:
        command: the program and its arguments.
        settings: of ``subprocess.run``.
    """
    return subprocess.run(
        [str(word) for word in command],
        **{"capture_output": True, "text": True, "timeout": 600, **settings},
        check=False,
    )

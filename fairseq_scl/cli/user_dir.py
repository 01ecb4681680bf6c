"""``fairseq-scl user-dir``."""

import argparse
from pathlib import Path

import fairseq_scl


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add no options."""


def run(arguments: argparse.Namespace) -> int:
    """Print the package's folder."""
    print(Path(fairseq_scl.__file__).parent)
    return 0

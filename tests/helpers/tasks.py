"""Small files with the quirks of the official ones."""

from pathlib import Path

MNLI_COLUMNS = (
    "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\t"
    "sentence1_parse\tsentence2_parse\tsentence1\tsentence2\tlabel1\t"
)
MRPC_COLUMNS = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String"


def write(path, *lines, end="\n") -> Path:
    """Write lines ending in line feeds, except the last one, which ends in ``end``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(("\n".join(lines) + end).encode())
    return path


def mnli_row(number, first, second, label, dev=False):
    given = [label] * (5 if dev else 1)
    return "\t".join([str(number), *"1234567", first, second, *given, label])


def write_sst2(folder, train=60, dev=41) -> Path:
    """Write SST-2 with twice as many positive sentences as negative ones."""
    for file, count in (("train.tsv", train), ("dev.tsv", dev)):
        rows = [f"{file[0]} {i} a fine film \t{int(i % 3 > 0)}" for i in range(count)]
        write(folder / "SST-2" / file, "sentence\tlabel", *rows)
    return folder


def write_yelp(folder) -> Path:
    """Write Yelp-2 with the same number of reviews per class."""
    for file, count in (("train.csv", 40), ("test.csv", 20)):
        text = "is a fine and very good film, great story\\nthe end"
        rows = [f'"{1 + i % 2}","{file} ""{i}"" {text}"' for i in range(count)]
        write(folder / "yelp_review_polarity_csv" / file, *rows)
    return folder

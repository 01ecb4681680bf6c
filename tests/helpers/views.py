"""Add augmented views to data folders."""

from fairseq.data import Dictionary, indexed_dataset

from fairseq_scl.rows import VIEWS
from helpers.training import write_rows


def add_views(folder, change=lambda ids, view: ids[view:] or ids):
    """Write views of a data folder; by default, they lack the first words."""
    dictionary = Dictionary.load(str(folder / "input0" / "dict.txt"))
    for view, name in enumerate(VIEWS):
        for part in sorted(folder.glob("input?")):
            rows = indexed_dataset.make_dataset(str(part / "train"), impl="mmap")
            new = [change(rows[i].tolist()[:-1], view) for i in range(len(rows))]
            target = folder / name / part.name
            target.mkdir(parents=True)
            write_rows(target / "train", new, dictionary)
    return folder

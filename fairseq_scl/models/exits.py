"""Names of the classification heads of a multi-exit encoder.

The head of the top exit is named as in the stock model. The others add ``_exit`` and
the number of their layer. The stock model can therefore load all of them and uses the
deepest one.
"""

import re
from collections.abc import Iterable

SHALLOW_HEAD = re.compile(r"_exit(\d+)$")


def shallow_head(head: str, layer: int) -> str:
    """Return the name of the head after a layer below the top, counted from 1."""
    return f"{head}_exit{layer}"


def exit_heads(heads: Iterable[str], head: str, layers: int) -> dict[int, str]:
    """Return the head of each exit by layer, from the lowest to the top.

    Args:
        heads: names of all classification heads of a model.
        head: name of the top head.
        layers: number of layers of the encoder.
    """
    found = {layers: head}
    for name in heads:
        match = SHALLOW_HEAD.search(name)
        if match and name == shallow_head(head, int(match[1])):
            found[int(match[1])] = name
    return dict(sorted(found.items()))

"""Exits of a multi-exit encoder: the names of their classification heads.

The head of the top exit has the name of the stock model's, the others that name and
``_exit`` with the number of their layer. So the stock model loads them all, and uses
the deepest.
"""

import re
from collections.abc import Iterable

SHALLOW_HEAD = re.compile(r"_exit(\d+)$")


def shallow_head(head: str, layer: int) -> str:
    """Return the name of the head after a layer below the top.

    Args:
        head: name of the top head.
        layer: counted from 1.
    """
    return f"{head}_exit{layer}"


def exit_heads(heads: Iterable[str], head: str, layers: int) -> dict[int, str]:
    """Find the exits of a model by the names of its classification heads.

    Args:
        heads: the names.
        head: name of the top head, which has to be among them.
        layers: of the encoder.

    Returns:
        name of the head after each layer that has one, from the lowest to the top.
    """
    found = {layers: head}
    for name in heads:
        match = SHALLOW_HEAD.search(name)
        if match and name == shallow_head(head, int(match[1])):
            found[int(match[1])] = name
    return dict(sorted(found.items()))

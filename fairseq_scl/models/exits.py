"""Names of the classification heads of a multi-exit encoder.

The head of the top exit is named as in the stock model. The others add ``_exit`` and
the number of their layer. The stock model can therefore load all of them and uses the
deepest one.
"""

import re
from collections.abc import Iterable

SHALLOW_HEAD = re.compile(r"_exit(\d+)$")
LAYERS = "encoder.sentence_encoder.layers."


def shallow_head(head: str, layer: int) -> str:
    """Return the name of the head after a layer below the top, counted from 1."""
    return f"{head}_exit{layer}"


def exits_of(weights: Iterable[str], head: str) -> dict[int, str]:
    """Return the head of each exit by layer, from the lowest to the top.

    Args:
        weights: names of the weights of a model.
        head: name of the top head.
    """
    found, layers = {}, set()
    for name in weights:
        if name.startswith(LAYERS):
            layers.add(name.removeprefix(LAYERS).split(".")[0])
        elif name.startswith("classification_heads."):
            other = name.split(".")[1]
            match = SHALLOW_HEAD.search(other)
            if match and other == shallow_head(head, int(match[1])):
                found[int(match[1])] = other
    found[len(layers)] = head
    return dict(sorted(found.items()))

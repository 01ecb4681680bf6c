"""Batches and arithmetic for oracles transcribed from equations."""

import math

import torch
from hypothesis import strategies as st


@st.composite
def batches(draw, least=0):
    """Draw float64 features ``(N, D)``, some rows repeated or zero, and labels."""
    size = draw(st.integers(least, 9))
    classes = draw(st.integers(1, 4))
    seed = draw(st.integers(0, 2**31))
    random = torch.Generator().manual_seed(seed)
    width = draw(st.integers(1, 5))
    features = torch.randn(size, width, generator=random, dtype=torch.float64)
    features *= 10.0 ** draw(st.integers(-6, 6))
    if size > 2 and draw(st.booleans()):
        features[1] = features[0]
    if size > 3 and draw(st.booleans()):
        features[2] = 0
    return features, torch.randint(classes, (size,), generator=random)


def unit(row):
    """Normalize a list of numbers; a zero vector stays zero."""
    length = math.sqrt(sum(x * x for x in row))
    return [x / length for x in row] if length else row


def dot(a, b):
    """Return the dot product of two lists of numbers."""
    return sum(x * y for x, y in zip(a, b, strict=True))

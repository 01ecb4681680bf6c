"""Wrap functions of fairseq."""

import functools
from collections.abc import Callable
from typing import Any


def wrap(owner: Any, name: str, wrapper: Callable[..., Any]) -> None:
    """Make ``owner.name(…)`` call ``wrapper(original, …)``; repeated calls do nothing.

    The owner is a module or a class.
    """
    original = getattr(owner, name)
    # functools.wraps copies attributes: the outermost function knows all wrappers.
    wrappers = getattr(original, "wrappers", ())
    if wrapper in wrappers:
        return

    @functools.wraps(original)
    def replacement(*args: Any, **kwargs: Any) -> Any:
        return wrapper(original, *args, **kwargs)

    replacement.wrappers = (*wrappers, wrapper)  # type: ignore[attr-defined]
    setattr(owner, name, replacement)

"""Criterions that learn parameters of their own, besides the model's.

fairseq trains them with the model's and saves them in the checkpoint under
``criterion``, apart from ``model``: they are no part of the classifier.
"""

import logging
from collections.abc import Mapping
from typing import Any

logger = logging.getLogger(__name__)


class LearnsParameters:
    """Stands before a criterion: loads what it learned where a checkpoint has it."""

    state_dict: Any

    def load_state_dict(
        self, state_dict: Mapping[str, Any] | None, *args: Any, **kwargs: Any
    ) -> Any:
        """Load the parameters, or say that they are initialized again.

        A published encoder has none, and those of another criterion, or of another
        number of classes, do not fit. fairseq treats classification heads alike.

        Args:
            state_dict: the checkpoint's ``criterion``; ``None`` if it has none.
            args: as for PyTorch's own.
            kwargs: as for PyTorch's own.
        """
        wanted = {name: value.shape for name, value in self.state_dict().items()}
        found = {name: value.shape for name, value in (state_dict or {}).items()}
        if found != wanted:
            if found:
                logger.warning(
                    "the criterion's parameters are initialized again: the checkpoint "
                    f"has {_words(found)}, not {_words(wanted)}"
                )
            return None
        parent: Any = super()
        return parent.load_state_dict(state_dict or {}, *args, **kwargs)


def _words(shapes: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {tuple(shape)}" for name, shape in shapes.items())

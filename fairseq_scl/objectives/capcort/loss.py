"""The consistency term after CAPCORT (Razdaibiedina et al. 2022, arXiv 2205.11603)."""

from torch import Tensor

from fairseq_scl.losses.shared import at_least_float32


def representation_consistency_loss(pretrained: Tensor, mapped: Tensor) -> Tensor:
    """Squared distance of representations, after CAPCORT (arXiv 2205.11603).

    ``‖z_pre(x) - φ(z_fine(x))‖²``, summed over the examples x and the D dimensions:
    what fine-tuning changed in the representation, as far as the map φ cannot undo it.
    The abstract does not print the formula; the squared distance is reconstructed. No
    gradient reaches ``pretrained``. N = 0 gives 0.

    Args:
        pretrained: ``(N, D)``, z_pre, any floating dtype.
        mapped: ``(N, D)``, φ(z_fine), any floating dtype. The computation is in
            float32, or float64 where one of the two is.

    Returns:
        a scalar, float32 or float64.

    Raises:
        ValueError: the shapes differ.
    """
    if pretrained.dim() != 2 or pretrained.shape != mapped.shape:
        raise ValueError(
            "both representations must be (N, D), got shapes "
            f"{tuple(pretrained.shape)} and {tuple(mapped.shape)}"
        )
    change = at_least_float32(mapped) - at_least_float32(pretrained.detach())
    return change.square().sum()

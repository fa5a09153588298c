"""Load tensors from a file into the layers that wrote them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from torch import Tensor, nn


def with_versions(model: nn.Module, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The tensors as a state dict in which every layer has the version that it has in the model.

    A file holds tensors alone; layers that convert old state, such as torchvision's MNASNet, take what has no version
    for old.
    """
    state = OrderedDict(tensors)
    state._metadata = getattr(model.state_dict(), "_metadata", {})  # type: ignore[attr-defined]
    return state

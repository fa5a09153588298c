"""Check whether published weights are cached or can be downloaded."""

from __future__ import annotations

from pathlib import Path

import torch

from ..connectivity import is_reachable
from ..errors import BackboneError


def is_in_torch_cache(url: str) -> bool:
    """Whether `torch.hub` has downloaded the file behind url before."""
    return (Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]).is_file()


def require_network(url: str, spec: str) -> None:
    """Fail within seconds where a download would hang or retry for a minute.

    Raises:
        BackboneError: the host of url does not answer.
    """
    if not is_reachable(url):
        raise BackboneError(
            f"the pretrained weights of '{spec}' are not on this machine and {url.split('/')[2]} cannot be reached: "
            "connect to the network, put the weights into the cache, or train without pretrained weights."
        )


def no_published_weights(spec: str) -> BackboneError:
    """The error for a backbone that nobody has published weights for."""
    return BackboneError(
        f"there are no published weights for '{spec}': leave out pretrained, or choose another backbone."
    )

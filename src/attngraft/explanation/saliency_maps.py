"""Saliency maps: from gates, from Grad-CAM, and those without content that they are compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ..attention import Attention, Gates
from ..errors import ConfigError, GraftError
from ..surgery import copy_model, find_sites, grafts, uncompiled, watching
from ..training.evaluate import in_eval_mode
from .image_source import BATCH, Source, View, inputs_of, predict_probabilities, prepared

Floats = NDArray[np.float32]
POSITIONAL = ("spatial", "rows", "columns", "full")
CELLS = 8  # along the longer side: a random map is about as smooth as the map of a late layer
CENTRE_WIDTH = 0.25  # standard deviation of the centre prior, in sides of the image


def gate_maps(model: nn.Module, images: View | Source) -> dict[str, Floats]:
    """What each graft weighs by position.

    That is the spatial gate, the row gate times the column gate, or the full gate, as the attention combines them;
    a gate that differs between channels is averaged over them. Attentions without positions are absent.

    Args:
        model: with live grafts.
        images: N images.

    Returns:
        Site path -> (N, h, w), in the order in which the sites run.
    """
    live, seen = grafts(uncompiled(model)), dict[str, list[Floats]]()

    def see(path: str, x: Tensor, gates: Gates) -> None:
        found = positional_weight(live[path], x, gates)
        if found is not None:
            seen.setdefault(path, []).append(found.float().cpu().numpy())

    if live:
        plain = uncompiled(model)
        with torch.no_grad(), in_eval_mode(plain), watching(plain, see):
            for batch in prepared(plain, inputs_of(model, images)):
                plain(batch)
    return {path: np.concatenate(parts) for path, parts in seen.items()}


def positional_weight(attention: Attention, x: Tensor, gates: Gates) -> Tensor | None:
    """(B, h, w): by how much the gates weigh each position of x (B, C, h, w); None where they know no positions."""
    if x.dim() != 4 or all(getattr(gates, part) is None for part in POSITIONAL):
        return None
    if type(attention).apply_gates is Attention.apply_gates:  # a product: the other factors are the same everywhere
        gates = replace(gates, channel=None, offset=None)
        if gates.rows is None and gates.columns is None and gates.full is None:
            return None if gates.spatial is None else gates.spatial.expand(len(x), -1, -1)
    return attention.apply_gates(torch.ones_like(x), replace(gates, offset=None)).mean(1)


def combined_gate_map(maps: Mapping[str, Floats], size: tuple[int, int]) -> Floats | None:
    """One map per image from those of all sites: each standardised per image, scaled up bilinearly, averaged.

    Args:
        maps: site path -> (N, h, w), as from `gate_maps`.
        size: height and width of the result.

    Returns:
        (N, H, W); None where no site knows positions.
    """
    if not maps:
        return None
    total = sum(scaled_to(_standardised(found), size) for found in maps.values())
    return np.asarray(total / len(maps), dtype=np.float32)


def cam_maps(model: nn.Module, images: View | Source, targets: Sequence[int] | NDArray[Any] | None = None) -> Floats:
    """Grad-CAM at the last convolutional stage.

    It works on a copy of the model, in float32; gradients are taken behind that stage only.

    Args:
        model: a classifier, grafted or not.
        images: N images.
        targets: (N,), the class to explain in each image; the predicted class by default.

    Returns:
        (N, H, W), not negative; each map is scaled for itself, to about 1.

    Raises:
        ConfigError: the package grad-cam is not installed.
        GraftError: the model has no stage of more than one position.

    Source: Selvaraju et al., ICCV 2017, arXiv:1610.02391; the implementation is the package grad-cam.
    """
    try:
        from pytorch_grad_cam import GradCAM
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    except ImportError as error:
        raise ConfigError(
            f"Grad-CAM needs the package grad-cam ({error}): install it with pip install 'attngraft[explain]'."
        ) from None
    inputs = inputs_of(model, images)
    wanted = predict_probabilities(model, inputs).argmax(1) if targets is None else np.asarray(targets)
    copied = copy_model(uncompiled(model)).float().eval()
    layer = copied.get_submodule(last_stage(copied, inputs))
    layer.register_forward_hook(_begin_graph)
    cam = GradCAM(model=copied, target_layers=[layer])
    layer.register_forward_hook(_shield)
    parts = []
    with torch.enable_grad(), torch.inference_mode(False):
        for start, batch in zip(range(0, len(inputs), BATCH), prepared(copied, inputs), strict=True):
            chosen = [ClassifierOutputTarget(int(target)) for target in wanted[start : start + len(batch)]]
            parts.append(cam(input_tensor=batch, targets=chosen))
    return np.concatenate(parts).astype(np.float32, copy=False)


def last_stage(model: nn.Module, inputs: Tensor) -> str:
    """Path of the module that makes the last map of more than one position.

    Raises:
        GraftError: there is none.
    """
    shape = (int(inputs.shape[1]), int(inputs.shape[2]), int(inputs.shape[3]))
    try:
        return find_sites(model, "stage", input_size=shape)[-1].path
    except GraftError as error:
        raise GraftError(f"there is no layer for Grad-CAM to look at ({error})") from None


def scaled_to(maps: Floats, size: tuple[int, int]) -> Floats:
    """(N, h, w) -> (N, H, W), bilinear."""
    scaled = F.interpolate(torch.from_numpy(maps)[:, None], size, mode="bilinear", align_corners=False)
    return np.asarray(scaled[:, 0].numpy())


def _standardised(maps: Floats) -> Floats:
    """Mean 0 and deviation 1 over the positions of each image; 0 where all positions are equal but for rounding."""
    centred = maps - maps.mean((1, 2), keepdims=True)
    deviation = centred.std((1, 2), keepdims=True)
    least = 1e-6 * np.maximum(np.abs(maps).max((1, 2), keepdims=True), 1e-6)
    return np.where(deviation > least, centred / np.maximum(deviation, least), 0).astype(np.float32)


def _begin_graph(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    """Nothing before the layer needs a gradient, which saves most of the memory and of the time."""
    return output.detach().requires_grad_()


def _shield(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    """What follows may work in place, on what was kept of this output."""
    return output.clone()


def random_maps(count: int, height: int, width: int, *, seed: int) -> Floats:
    """(N, H, W): smooth noise, another one for each image."""
    longer = max(height, width)
    rows, columns = (max(2, round(CELLS * side / longer)) for side in (height, width))
    noise = np.random.default_rng(seed).standard_normal((count, 1, rows, columns), dtype=np.float32)
    smooth = F.interpolate(torch.from_numpy(noise), (height, width), mode="bilinear", align_corners=False)
    return np.ascontiguousarray(smooth[:, 0].numpy())


def centre_maps(count: int, height: int, width: int) -> Floats:
    """(N, H, W): a Gaussian about the centre, the same for every image."""
    y, x = ((np.arange(side) + 0.5) / side - 0.5 for side in (height, width))
    distance = np.square(y)[:, None] + np.square(x)[None]
    return np.repeat(np.exp(-distance / (2 * CENTRE_WIDTH**2))[None].astype(np.float32), count, axis=0)


def uniform_maps(count: int, height: int, width: int) -> Floats:
    """(N, H, W) of ones."""
    return np.ones((count, height, width), dtype=np.float32)

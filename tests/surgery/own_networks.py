"""Networks as users write them: functional, nested, with habits that a search for sites must survive."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FunctionalVGG(nn.Module):
    """Convolutions as modules, everything else as functions; greyscale input."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 16, 3, padding=1)
        self.third = nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.first(x)), 2)
        x = F.max_pool2d(F.relu(self.second(x)), 2)
        x = F.relu(self.third(x))
        return self.head(x.mean((2, 3)))


class ResidualBlock(nn.Module):
    """x + f(x), the branch a plain chain of calls that ends in a function or in a layer."""

    def __init__(self, channels: int, sum_style: str = "operator") -> None:
        super().__init__()
        self.enter = nn.Conv2d(channels, channels, 3, padding=1)
        self.leave = nn.Conv2d(channels, channels, 3, padding=1)
        self.sum_style = sum_style

    def forward(self, x: Tensor) -> Tensor:
        y = self.leave(F.relu(self.enter(x)))
        if self.sum_style == "operator":
            return x + y
        if self.sum_style == "swapped":
            return y + x
        if self.sum_style == "function":
            return torch.add(x, y)
        if self.sum_style == "scaled":
            return x + 0.5 * y
        y += x
        return F.relu(y, inplace=True)


class FunctionalResNet(nn.Module):
    """Three residual blocks behind a stem; the inner blocks sum in different ways."""

    def __init__(self, channels_in: int = 3, styles: tuple[str, ...] = ("operator", "function", "in-place")) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels_in, 8, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList([ResidualBlock(8, style) for style in styles])
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))


class Chain(nn.Module):
    """A container of its own that runs whatever children it has, as nn.Sequential does."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        for number, layer in enumerate(layers):
            self.add_module(f"step{number}", layer)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.children():
            x = layer(x)
        return x


class ScaledChain(Chain):
    """Like Chain, and hands each child a second argument: a stray child with one argument breaks it."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.children():
            x = layer(x, 2.0)
        return x


class Times(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, factor: float) -> Tensor:
        return self.conv(x) * factor


class ChainNet(nn.Module):
    """Two groups in custom containers with a pooling after each."""

    def __init__(self, scaled: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.group1 = ScaledChain(Times(8), Times(8)) if scaled else _conv_group()
        self.group2 = ScaledChain(Times(8)) if scaled else _conv_group()
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.group1(self.stem(x)), 2)
        x = F.max_pool2d(self.group2(x), 2)
        return self.head(x.mean((2, 3)))


def _conv_group() -> Chain:
    return Chain(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())


class CoordinateNet(FunctionalResNet):
    """Makes a tensor on the CPU in its forward pass, which cannot be mixed with weightless tensors."""

    def __init__(self) -> None:
        super().__init__(channels_in=4)

    def forward(self, x: Tensor) -> Tensor:
        rows = torch.linspace(-1, 1, x.shape[2], device="cpu").reshape(1, 1, -1, 1)
        return super().forward(torch.cat([x, rows.expand(x.shape[0], 1, *x.shape[2:]).to(x.dtype)], 1))


class PairNet(FunctionalResNet):
    """Takes two images and returns a dict."""

    def __init__(self) -> None:
        super().__init__(channels_in=6)

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"logits": super().forward(torch.cat([left, right], 1))}


class ListNet(FunctionalResNet):
    """Takes a list of images of any size, as detectors do."""

    def forward(self, images: list[Tensor]) -> Tensor:  # type: ignore[override]
        side = max(max(image.shape[-2:]) for image in images)
        batch = torch.stack([F.pad(i, (0, side - i.shape[2], 0, side - i.shape[1])) for i in images])
        return super().forward(batch)


class SharedNet(nn.Module):
    """Runs one convolution twice, and never runs another."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.shared = nn.Conv2d(8, 8, 3, padding=1)
        self.unused = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.shared(self.stem(x)), 2)
        return self.head(self.shared(x).mean((2, 3)))

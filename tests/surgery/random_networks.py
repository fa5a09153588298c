"""Small networks of random structure, as different people write them; a seed makes the same one every time."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Draw = random.Random


def conv(c: int, to: int | None = None, k: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(c, to or c, k, stride, k // 2)


def layers(draw: Draw, c: int, to: int | None = None, stride: int = 1) -> nn.Sequential:
    """Convolution, normalisation, activation, dropout: some of them."""
    out = to or c
    norm = draw.choice([nn.BatchNorm2d, nn.BatchNorm2d, lambda n: nn.GroupNorm(2, n), nn.Identity])(out)
    act = draw.choice([lambda: nn.ReLU(inplace=True), nn.GELU, nn.SiLU, nn.Identity])()
    extra = draw.choice([nn.Identity, lambda: nn.Dropout(0.2), lambda: nn.Dropout2d(0.2)])()
    return nn.Sequential(conv(c, out, draw.choice([1, 3]), stride), norm, act, extra)


class Block(nn.Module):
    """A block of c channels whose parts are drawn."""

    def __init__(self, draw: Draw, c: int) -> None:
        super().__init__()
        self.a, self.b = layers(draw, c), layers(draw, c)
        self.p, self.q = conv(c, k=1), conv(c)
        self.c, self.flag = c, draw.randrange(4)


class Residual(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.b(self.a(x))
        if self.flag == 0:
            return F.relu(x + y)
        if self.flag == 1:
            y += x
            return F.relu_(y)
        return y + x if self.flag == 2 else torch.add(x, y, alpha=0.5)


class Projected(Block):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.p(x) + self.q(F.relu(self.a(x))))


class Views(Block):
    """Branches that end in the shape of another tensor."""

    def forward(self, x: Tensor) -> Tensor:
        if self.flag == 0:
            return x + self.q(x).flatten(2).view_as(x)
        if self.flag == 1:
            return x + self.q(x).mean((2, 3), keepdim=True).expand_as(x)
        if self.flag == 2:
            return self.a(x) + torch.ones_like(self.q(x)) * x
        return x + self.a(x).reshape(x.shape[0], -1).reshape_as(x).type_as(x)


class Shared(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.a(self.a(x)) + x if self.flag % 2 else self.q(self.b(self.q(x)))


class Dicts(Block):
    class Inner(Block):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"out": self.a(x), "other": self.p(x)}

    def __init__(self, draw: Draw, c: int) -> None:
        super().__init__(draw, c)
        self.inner = Dicts.Inner(draw, c)

    def forward(self, x: Tensor) -> Tensor:
        found = self.inner(x)
        return found["out"] if self.flag == 0 else found["out"] + found["other"]


class Island(nn.Module):
    """Channels last between two permutations, as in ConvNeXt; or without the way back within the block."""

    def __init__(self, draw: Draw, c: int) -> None:
        super().__init__()
        self.mix, self.norm = nn.Conv2d(c, c, 3, 1, 1, groups=c), nn.LayerNorm(c)
        self.up, self.down = nn.Linear(c, 2 * c), nn.Linear(2 * c, c)
        self.drop, self.flag = nn.Dropout(0.1), draw.randrange(2)

    def forward(self, x: Tensor) -> Tensor:
        last = self.mix(x).permute(0, 2, 3, 1)
        y = self.drop(self.down(F.gelu(self.up(self.norm(last)))))
        return x + y.permute(0, 3, 1, 2) if self.flag else (x.permute(0, 2, 3, 1) + y).permute(0, 3, 1, 2)


class Native(nn.Module):
    """Blocks in channels last, as in MambaOut."""

    class Mlp(nn.Module):
        def __init__(self, c: int) -> None:
            super().__init__()
            self.norm, self.up, self.down = nn.LayerNorm(c), nn.Linear(c, 2 * c), nn.Linear(2 * c, c)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.down(F.gelu(self.up(self.norm(x))))

    def __init__(self, draw: Draw, c: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Native.Mlp(c) for _ in range(draw.choice([1, 2]))))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).contiguous()


class Concat(Block):
    def __init__(self, draw: Draw, c: int) -> None:
        super().__init__(draw, c)
        self.join = conv(2 * c, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.join(torch.cat([self.a(x), x if self.flag % 2 else self.b(x)], 1))


class Inception(Block):
    def forward(self, x: Tensor) -> Tensor:
        total = self.p(x) + self.q(self.a(x))
        return total + F.avg_pool2d(self.b(x), 3, 1, 1) if self.flag % 2 else total


class Adapted(Block):
    """LoRA or a parallel adapter beside a convolution, within a residual block."""

    def __init__(self, draw: Draw, c: int) -> None:
        super().__init__(draw, c)
        self.down, self.up = conv(c, 2, 1), conv(2, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        low = self.down(x)
        y = self.q(x) + self.up(F.relu(low) if self.flag % 2 else low)
        return F.relu(x + self.a(y)) if self.flag > 1 else F.relu(y)


class Several(Block):
    """One convolution written as several."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.p(x) + self.q(x) + x if self.flag % 2 else x + self.p(x) + self.q(x))


class Slices(Block):
    def __init__(self, draw: Draw, c: int) -> None:
        super().__init__(draw, c)
        self.narrow = conv(c // 2)

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1)
        if self.flag == 0:
            y = torch.zeros_like(x)
            y[:, : self.c // 2] = self.narrow(left)
            y[:, self.c // 2 :].copy_(right)
            return y
        if self.flag == 1:
            return torch.cat([left, self.narrow(right) + right], 1)
        y = self.q(x)
        y[:, : self.c // 2].add_(left).relu_()
        return y if self.flag == 2 else self.a(y)


class Wasteful(Block):
    """Runs modules whose output goes nowhere, or from which no gradient comes."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        if self.flag == 0:
            self.q(x)
        elif self.flag == 1:
            y = y * (self.q(x) > 0)
        elif self.flag == 2:
            y = y + self.q(x).detach()
        else:
            y = y + torch.zeros(self.q(x).shape, dtype=x.dtype)
        return y


class Hourglass(Block):
    def __init__(self, draw: Draw, c: int) -> None:
        super().__init__(draw, c)
        self.back = nn.ConvTranspose2d(c, c, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        skip, low = self.a(x), self.b(F.max_pool2d(self.q(x), 2))
        size = skip.shape[-2:]
        up = F.interpolate(low, size=size) if self.flag % 2 else F.interpolate(self.back(low), size)
        return skip + up if self.flag > 1 else x + self.p(up)


class Attending(Block):
    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).flatten(2) for layer in (self.p, self.q, self.a))
        weights = (q.transpose(1, 2) @ k / self.c).softmax(-1)
        return x + (v @ weights.transpose(1, 2)).view_as(x)


class Gated(Block):
    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.p(F.adaptive_avg_pool2d(x, 1)))
        return self.a(x) * gate if self.flag % 2 else x + x * gate.expand(-1, -1, *x.shape[2:])


class Functional(Block):
    def __init__(self, draw: Draw, c: int) -> None:
        super().__init__(draw, c)
        self.weight = nn.Parameter(torch.randn(c, c, 3, 3) / c)

    def forward(self, x: Tensor) -> Tensor:
        y = F.batch_norm(F.conv2d(x, self.weight, padding=1), None, None, training=True)
        return F.dropout(x + y if self.flag % 2 else F.relu(y), 0.1, self.training)


class Listed(Block):
    def __init__(self, draw: Draw, c: int) -> None:
        super().__init__(draw, c)
        self.steps = nn.ModuleList([layers(draw, c) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        kept = [x]
        for step in self.steps:
            kept.append(step(kept[-1] if self.flag % 2 else sum(kept)))
        return kept[-1] if self.flag > 1 else torch.stack(kept).sum(0)


class Pair(Block):
    class Inner(Block):
        def forward(self, x: Tensor, other: Tensor | None = None) -> tuple[Tensor, Tensor]:
            return self.a(x), x if other is None else self.b(other)

    def __init__(self, draw: Draw, c: int) -> None:
        super().__init__(draw, c)
        self.one, self.two = Pair.Inner(draw, c), Pair.Inner(draw, c)

    def forward(self, x: Tensor) -> Tensor:
        y, z = self.two(*self.one(x))
        return y + z if self.flag % 2 else self.q(torch.maximum(y, z))


class StochasticDepth(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.b(self.a(x))
        if self.training:
            y = y * torch.empty(x.shape[0], 1, 1, 1).bernoulli_(0.8)
        return x + y


class Down(nn.Module):
    """To half the resolution and other channels."""

    def __init__(self, draw: Draw, c: int, to: int) -> None:
        super().__init__()
        self.flag = draw.randrange(4)
        self.main, self.skip = layers(draw, c, to, 1 if self.flag > 1 else 2), conv(c, to, 1, 2)
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        self.after = conv(to)

    def forward(self, x: Tensor) -> Tensor:
        if self.flag > 1:
            return self.pool(self.main(x)) if self.flag == 2 else F.avg_pool2d(self.main(x), 2, ceil_mode=True)
        return self.main(x) if self.flag == 0 else F.relu(self.skip(x) + self.after(F.relu(self.main(x))))


BLOCKS: list[Callable[[Draw, int], nn.Module]] = [
    *(Residual, Projected, Views, Shared, Dicts, Island, Native, Concat, Inception, Adapted, Several, Slices, Wasteful),
    *(Hourglass, Attending, Gated, Functional, Listed, Pair, StochasticDepth, Residual, layers),
]  # fmt: skip


class RandomNetwork(nn.Module):
    """Stem, blocks, a way down between them, and a head for images or for positions."""

    def __init__(self, seed: int, most_blocks: int = 3) -> None:
        super().__init__()
        draw = random.Random(seed)
        torch.manual_seed(seed)
        self.flag, self.head_kind = draw.randrange(8), draw.choice(["linear", "linear", "map", "dict", "tuple"])
        self.fc = nn.Linear(8, 3)  # before the body
        c = draw.choice([4, 8])
        parts: list[nn.Module] = [conv(3, c, stride=2)]
        for _ in range(draw.randrange(most_blocks) + 1):
            block = draw.choice(BLOCKS)(draw, c)
            parts += [block, block] if draw.random() < 0.1 else [block]
            if draw.random() < 0.4:
                to = draw.choice([4, 8])
                parts.append(Down(draw, c, to))
                c = to
        parts.append(conv(c, 8, 1))
        half = draw.randrange(len(parts))
        self.body = nn.Sequential(nn.Sequential(*parts[:half]), *parts[half:]) if draw.random() < 0.5 else None
        self.parts = nn.ModuleList(parts) if self.body is None else None
        self.logits, self.aux, self.unused = conv(8, 3, 1), nn.Linear(8, 3), conv(8)

    def features(self, x: Tensor) -> Tensor:
        if self.body is not None:
            return self.body(x)
        for part in self.parts or ():
            x = part(x)
        return x

    def forward(self, x: Tensor) -> Any:
        y = self.features(x)
        if self.head_kind == "map":
            return F.interpolate(self.logits(F.relu(y)), size=x.shape[-2:])
        logits = self.fc(y.mean((2, 3)))
        if self.head_kind == "dict":
            return {"logits": logits, "features": y}
        auxiliary = self.training and self.head_kind == "tuple"
        return (logits, self.aux(y.amax((2, 3)))) if auxiliary else logits

"""What others do with a pretrained network and a folder of images, each as its own documentation says.

Each function trains `timm:tf_efficientnet_lite0` on FOLDER/train/CLASS and returns what predicts FOLDER/test/CLASS.
Settings that a project leaves to the user were chosen on validation parts of the training images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from attngraft.backbones import backbone_info, create_backbone

BACKBONE = "timm:tf_efficientnet_lite0"


@dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
        folder: with train/CLASS and test/CLASS.
        seed: of everything that is drawn.
        size: side of the input in pixels.
        epochs: passes over the training images.
        options: by which an arm is changed.
    """

    folder: Path
    seed: int
    size: int
    epochs: int
    options: dict[str, Any]

    @property
    def classes(self) -> int:
        return len(list((self.folder / "train").iterdir()))

    def network(self) -> nn.Module:
        return create_backbone(BACKBONE, num_classes=self.classes)

    def images(self, split: str, transform: Callable[..., Any]) -> ImageFolder:
        return ImageFolder(str(self.folder / split), transform)


def accuracy(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """The part of the images whose class is predicted."""
    model.eval()
    with torch.no_grad():
        right = [(model(images).argmax(1) == labels).float() for images, labels in batches]
    return float(torch.cat(right).mean())


def _normalise(network: nn.Module) -> list[Any]:
    info = backbone_info(network)
    assert info is not None
    return [v2.ToImage(), v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(info.preprocessing.mean, info.preprocessing.std)]  # fmt: skip


def _evaluation(job: Job, network: nn.Module, around: float = 256 / 224) -> DataLoader[Any]:
    steps = [v2.Resize(round(job.size * around)), v2.CenterCrop(job.size), *_normalise(network)]
    return DataLoader(job.images("test", v2.Compose(steps)), batch_size=64)


def _step(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def tutorial(job: Job) -> float:
    """The transfer learning tutorial of PyTorch: everything by SGD at 1e-3, tenfold lower after seven epochs."""
    network = job.network()
    steps = [v2.RandomResizedCrop(job.size), v2.RandomHorizontalFlip(), *_normalise(network)]
    batches = DataLoader(job.images("train", v2.Compose(steps)), batch_size=4, shuffle=True)
    optimizer = torch.optim.SGD(network.parameters(), lr=job.options.get("lr", 1e-3), momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=7, gamma=0.1)
    for _ in range(job.epochs):
        network.train()
        for images, labels in batches:
            _step(nn.functional.cross_entropy(network(images), labels), optimizer)
        scheduler.step()
    return accuracy(network, _evaluation(job, network))


def frozen(job: Job) -> float:
    """Full fine-tuning by AdamW under one cycle of the rate; the statistics of BatchNorm are kept."""
    network = job.network()
    crop = v2.RandomResizedCrop(job.size, scale=(0.5, 1))
    data = job.images("train", v2.Compose([crop, v2.RandomHorizontalFlip(), *_normalise(network)]))
    batches = DataLoader(data, batch_size=32, shuffle=True, drop_last=True)
    lr = job.options.get("lr", 1e-3)
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=0.01)
    total = job.epochs * len(batches)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=total)
    for _ in range(job.epochs):
        network.train()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        for images, labels in batches:
            _step(nn.functional.cross_entropy(network(images), labels, label_smoothing=0.1), optimizer)
            scheduler.step()
    return accuracy(network, _evaluation(job, network))


def timm(job: Job) -> float:
    """timm's own parts, put together as its training script does it for fine-tuning.

    AdamW with a rate that decays by the layer, one epoch of warm-up and a cosine, label smoothing, the script's
    transforms, and an average of the weights, which is what is evaluated.
    """
    from timm.data import create_transform
    from timm.loss import LabelSmoothingCrossEntropy
    from timm.optim import create_optimizer_v2
    from timm.scheduler import CosineLRScheduler
    from timm.utils import ModelEmaV3

    network, options = job.network(), job.options
    info = backbone_info(network)
    assert info is not None
    transform = partial(create_transform, job.size, mean=info.preprocessing.mean, std=info.preprocessing.std)
    training = transform(
        is_training=True, interpolation="random", scale=(options.get("smallest", 0.08), 1), re_prob=0.0
    )
    batches = DataLoader(job.images("train", training), batch_size=32, shuffle=True, drop_last=True)
    lr = options.get("lr", 1e-3)
    optimizer = create_optimizer_v2(network, "adamw", lr=lr, weight_decay=0.05, layer_decay=options.get("decay", 0.75))
    scheduler = CosineLRScheduler(optimizer, job.epochs * len(batches), lr_min=1e-6, warmup_t=len(batches),
                                  warmup_lr_init=1e-6, t_in_epochs=False)  # fmt: skip
    average, loss = ModelEmaV3(network, decay=0.99, use_warmup=True), LabelSmoothingCrossEntropy(0.1)
    taken = 0
    for _ in range(job.epochs):
        network.train()
        for images, labels in batches:
            _step(loss(network(images), labels), optimizer)
            taken += 1
            average.update(network, step=taken)
            scheduler.step_update(taken)
    evaluation = DataLoader(job.images("test", transform(is_training=False, crop_pct=0.875)), batch_size=64)
    return accuracy(average.module, evaluation)


def fastai(job: Job) -> float:
    """fastai's `fine_tune`: the head for an epoch, then everything with rates that differ by the layer."""
    from fastai.vision.all import (
        CategoryBlock,
        CrossEntropyLossFlat,
        DataBlock,
        GrandparentSplitter,
        ImageBlock,
        Learner,
        Normalize,
        Resize,
        apply_init,
        aug_transforms,
        get_image_files,
        parent_label,
        set_seed,
    )  # fmt: skip
    from fastai.vision.learner import TimmBody, create_head, default_split

    set_seed(job.seed)
    network = job.network()
    info = backbone_info(network)
    assert info is not None
    channels = network.num_features
    network.reset_classifier(0, "")
    model = nn.Sequential(TimmBody(network), create_head(channels, job.classes))
    apply_init(model[1], nn.init.kaiming_normal_)
    augment = [*aug_transforms(size=job.size, min_scale=0.75), Normalize.from_stats(info.preprocessing.mean,
               info.preprocessing.std)]  # fmt: skip
    data = DataBlock((ImageBlock, CategoryBlock), get_items=get_image_files, get_y=parent_label, batch_tfms=augment,
                     splitter=GrandparentSplitter("train", "test"), item_tfms=Resize(round(job.size * 4 / 3)))  # fmt: skip
    loaders = data.dataloaders(job.folder, bs=job.options.get("bs", 32), num_workers=0)
    learner = Learner(loaders, model, loss_func=CrossEntropyLossFlat(), splitter=default_split)
    learner.freeze()
    with learner.no_bar(), learner.no_logging():
        learner.remove_cbs([cb for cb in learner.cbs if cb.name == "progress"])
        kept, loaders.valid = loaders.valid, []  # the others do not evaluate after each epoch either
        learner.validate = lambda *args, **options: None
        learner.fine_tune(job.epochs - 1, job.options.get("lr", 2e-3))
    loaders.loaders[1] = kept
    return accuracy(learner.model, kept)


PEERS: dict[str, Callable[[Job], float]] = {"fastai": fastai, "timm": timm, "tutorial": tutorial, "frozen": frozen}

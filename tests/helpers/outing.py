"""All verbs once, on data with hostile names, with secrets in the environment and a network that notes who uses it."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image

from attngraft.cli import main

CLASSES = ("<script>alert(1)<", "ev\x1b[31mil [bold] \u202e{{ 7*7 }} [", '"><img src=x onerror=alert(2)>')
FILES = ('"><img src=x onerror=alert(3)>', "a\x1b]0;title\x07[", "{{ 7*7 }}{% raw %}", "[bold]b[", "\u202egnp")
SECRETS = {
    "HF_TOKEN": "hf_AbCdEfGhIjKlMnOpQrStUvWxYz012345",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
    "DB_PASSWORD": "correct-horse-battery",
    "SOME_SERVICE_CREDENTIALS": "c2VjcmV0LXNlY3JldA",
}
SMALL = (
    "--image-size", "16", "--epochs", "1", "--recipe", "one-cycle", "--batch-size", "8",
    "--precision", "fp32+contiguous", "--workers", "0", "--skip-broken",
)  # fmt: skip


@dataclass
class Outing:
    """What is left of it.

    Attributes:
        folder: with all that was written.
        said: verb -> what it printed, standard output and standard error.
        attempts: to reach the network.
    """

    folder: Path
    said: dict[str, str] = field(default_factory=dict)
    attempts: list[str] = field(default_factory=list)


def write_images(folder: Path) -> Path:
    """Class folders and files with hostile names, one of which is no image."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for number in range(8):
            pixels = rng.integers(60 * label, 60 * label + 90, (20, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{FILES[number % len(FILES)]}{number}.png")
    (folder / CLASSES[0] / "[red]broken\x1b[2J.png").write_bytes(b"no image")
    return folder


@contextlib.contextmanager
def watched_network(attempts: list[str]) -> Iterator[None]:
    """Within, every attempt to reach another machine is noted and fails."""

    def refuse(*where: Any, **_: Any) -> Any:
        attempts.append(repr(where[-2:]))
        raise OSError("no network in this test")

    with contextlib.ExitStack() as stack:
        for name in ("connect", "connect_ex", "sendto"):
            stack.enter_context(mock.patch.object(socket.socket, name, refuse))
        for name in ("getaddrinfo", "gethostbyname", "create_connection"):
            stack.enter_context(mock.patch.object(socket, name, refuse))
        yield


def call(*arguments: object) -> str:
    """What a verb prints, standard output and standard error together; it must succeed."""
    out, code = io.StringIO(), 0
    typed = mock.patch.object(sys, "argv", ["attngraft", *map(str, arguments)])
    with typed, contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0
    assert code == 0, (arguments, out.getvalue())
    return out.getvalue()


def make_outing(folder: Path) -> Outing:
    """Go through the verbs."""
    found = Outing(folder)
    data, run, cmp = write_images(folder / "data"), folder / "run", folder / "cmp"
    model = ("--backbone", "small-cnn")
    verbs = {
        "fit": ("fit", data, *model, "--attention", "cbam", "--out", run, *SMALL),
        "compare": (
            "compare", data, "--backbone", "timm:test_resnet", "--no-pretrained", "--attention", "simam",
            "--seeds", 1, "--out", cmp, *SMALL,
        ),
        "predict": ("predict", run, data, "--skip-broken"),
        "predict json": ("predict", run, data, "--skip-broken", "--output", "json"),
        "explain": ("explain", run, "--skip-broken", "--examples", 2, "--out", folder / "explanation"),
        "report": ("report", run),
        "sites": ("sites", "torchvision:squeezenet1_1"),
        "store": ("store", folder / "store", "--create", run, "--skip-broken"),
    }  # fmt: skip
    with mock.patch.dict(os.environ, {**SECRETS, "COLUMNS": "200"}), watched_network(found.attempts):
        for name, arguments in verbs.items():
            found.said[name] = call(*arguments)
    return found

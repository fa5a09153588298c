"""A network of one's own, from sites over fit to predict, in separate processes that know nothing of each other."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

NET = """
from torch import nn

def make(num_classes):
    body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2))
    return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own network")
    (folder / "net.py").write_text(NET)
    for number, name in enumerate(("dark", "light")):
        (folder / "photos" / name).mkdir(parents=True)
        for i in range(8):
            pixels = np.random.default_rng(10 * number + i).integers(0, 90 + 150 * number, (20, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / name / f"{i}.png")
    return folder


def attngraft(place, *words):
    command = [sys.executable, "-m", "attngraft", *words]
    return subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)


FIT = ("--recipe", "one-cycle", "--epochs", "1", "--image-size", "16", "--batch-size", "8", "--workers", "0")


def test_a_network_in_a_file_goes_all_the_way(place):
    found = attngraft(place, "sites", "net.py:make", "--attention", "se@stage", "--image-size", "16")
    assert found.returncode == 0, found.stderr
    found = attngraft(
        place, "fit", "photos", "--backbone", "net.py:make", "--attention", "se@stage", *FIT, "--run-dir", "run"
    )
    assert found.returncode == 0, found.stderr
    found = attngraft(place, "predict", "run", "photos/dark/0.png")
    assert found.returncode == 2
    assert "attngraft --network net.py:make before the verb" in found.stderr
    found = attngraft(place, "--network", "net.py:make", "predict", "run", "photos/dark/0.png")
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines()[1].startswith("photos/dark/0.png,")


def test_a_wrong_name_is_one_sentence(place):
    found = attngraft(place, "--network", "net.py:mke", "predict", "run", "photos/dark/0.png")
    assert found.returncode == 2
    assert found.stderr == "error: net.py has no function 'mke': did you mean 'make'?\n"

"""No other machine is asked for anything unless that was asked for."""

from __future__ import annotations

import re
import socket
import urllib.request

import pytest
import torch
from outing import watched_network
from pages import assert_harmless
from training_helpers import PLAIN, coloured_squares, run_fit, short_recipe

import attngraft as ag
from attngraft.errors import BackboneError, DataError


def test_no_verb_reaches_for_the_network(outing):
    assert outing.attempts == []


def test_an_attempt_would_be_noticed():
    attempts: list[str] = []
    with watched_network(attempts), socket.socket() as plain:
        for reach in (
            lambda: urllib.request.urlopen("http://127.0.0.1:9/", timeout=1),
            lambda: socket.create_connection(("127.0.0.1", 9), timeout=1),
            lambda: plain.connect(("127.0.0.1", 9)),
            lambda: socket.getaddrinfo("example.org", 443),
        ):
            before = len(attempts)
            with pytest.raises(OSError, match="no network in this test"):
                reach()
            assert len(attempts) > before


def test_the_functions_reach_for_nothing_either(tmp_path):
    attempts: list[str] = []
    with watched_network(attempts):
        data = coloured_squares()
        model = ag.graft(ag.create_backbone("small-cnn", num_classes=3), "cbam")
        run_fit(model, data, tmp_path / "run", image_size=16, recipe=short_recipe(1))
        ag.load(tmp_path / "run")
        ag.create_backbone(str(tmp_path / "run"), pretrained=False)
        for spec in ("timm:resnet18", "timm:tf_efficientnet_lite0", "torchvision:mobilenet_v3_small", "resnet20-32"):
            ag.create_backbone(spec, num_classes=3, pretrained=False)
        torch.save(ag.create_backbone("small-cnn").state_dict(), tmp_path / "w.pth")
        ag.create_backbone("small-cnn", weights=tmp_path / "w.pth")
        ag.compare(
            data, backbone="small-cnn", attentions="simam", seeds=1, recipe=short_recipe(1), pretrained=False,
            run_dir=tmp_path / "cmp", image_size=16, **PLAIN,
        )  # fmt: skip
    assert attempts == []


def test_published_weights_and_data_are_refused_in_seconds_where_no_network_answers(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    attempts: list[str] = []
    with watched_network(attempts):
        with pytest.raises(BackboneError, match="cannot be reached"):
            ag.create_backbone("torchvision:squeezenet1_0", pretrained=True)
        assert attempts, "weights were asked for, so the network was"
        with pytest.raises(DataError, match="--download"):
            ag.load_data("cifar10", image_size=16, root=tmp_path / "none")


def test_the_pages_load_nothing(outing):
    pages = list(outing.folder.rglob("*.html"))
    assert len(pages) >= 3
    for page in pages:
        html = page.read_text(encoding="utf-8")
        assert "default-src 'none'" in html
        assert_harmless(html)
        assert not re.search(r"(@import|url\s*\(\s*[\"']?(?!#|data:))", html)

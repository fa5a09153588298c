"""What a result was made on."""

from __future__ import annotations

import json
from importlib import metadata

import torch

from attngraft.environment import default_device, hardware, usable_cores, versions


def test_hardware_and_versions_are_json_and_say_something():
    found = json.loads(json.dumps({"hardware": hardware(), "versions": versions()}))
    assert found["hardware"]["cpu"]
    assert found["hardware"]["cores"] == usable_cores() >= 1
    assert found["versions"]["torch"] == metadata.version("torch")
    assert found["versions"]["attngraft"] == metadata.version("attngraft")


def test_the_default_device_exists():
    assert torch.zeros(1, device=default_device()).item() == 0

"""What the environment keeps secret stays there."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from outing import SECRETS
from safetensors import safe_open

from attngraft.cli.output import command_line, without_secrets
from attngraft.environment import hardware, versions


def test_no_file_and_no_line_of_any_verb_has_a_secret_of_the_environment(outing):
    files = [path for path in outing.folder.rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {"run.json", "comparison.json", "explanation.json", "store.json", "report.html", "journal.jsonl"} <= names
    for path in files:
        content = path.read_bytes()
        for secret in SECRETS.values():
            assert secret.encode() not in content, path
    for verb, text in outing.said.items():
        assert not [name for name, secret in SECRETS.items() if secret in text], verb


def test_the_home_of_the_user_and_the_name_of_the_machine_are_in_no_record(outing):
    home, host = str(Path.home()), os.uname().nodename
    for path in [*outing.folder.rglob("*.json"), *outing.folder.rglob("*.jsonl"), *outing.folder.rglob("*.html")]:
        text = path.read_text(encoding="utf-8", errors="replace")
        assert len(host) < 6 or host not in text, path  # a name of two letters stands everywhere
        assert home == "/" or home not in text.replace(str(outing.folder), ""), path


def test_a_model_file_names_no_folder_of_the_machine(outing):
    for path in outing.folder.rglob("model.safetensors"):
        with safe_open(path, framework="np") as tensors:
            assert str(outing.folder) not in str(tensors.metadata()), path


def test_a_secret_on_the_command_line_is_masked_in_the_record(monkeypatch):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["/home/me/bin/attngraft", "fit", f"s3://{SECRETS['HF_TOKEN']}@x", "--seed", "1"])
    assert command_line() == "attngraft fit 's3://***@x' --seed 1"
    monkeypatch.setattr(sys, "argv", ["/anywhere/attngraft/__main__.py", "fit", "my data"])
    assert command_line() == "attngraft fit 'my data'"


@pytest.mark.parametrize("name", ["HF_TOKEN", "aws_secret_access_key", "MyPassword", "X_API_KEY", "APIKEY"])
def test_variables_that_are_named_like_secrets_are_secrets(name):
    assert without_secrets("--x hunter22hunter", {name: "hunter22hunter"}) == "--x ***"


def test_other_variables_and_short_words_stay():
    assert (
        without_secrets("fit data --seed 1", {"HOME": "fit data", "TOKEN": "1", "PASSWORD": ""}) == "fit data --seed 1"
    )


def test_the_record_of_machine_and_versions_holds_nothing_of_the_environment(monkeypatch):
    before = (hardware(), versions())
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    assert (hardware(), versions()) == before
    assert set(before[0]) == {"cpu", "cores", "memory_gib", "gpu", "os"}

"""`show` and `runs`: what our folders and files are."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import attngraft as ag
from attngraft.inventory import identify

FIXTURES = Path(__file__).parents[1] / "fixtures" / "format_2"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Runs of an earlier release, in a folder with a space in its name."""
    made = tmp_path_factory.mktemp("of ours")
    shutil.copytree(FIXTURES, made / "my runs")
    model = ag.graft(ag.create_backbone("small-cnn", num_classes=3), "cbam")
    ag.save(model, made / "whole.safetensors")
    ag.save(model, made / "grafts.safetensors", only="grafts")
    save_file({"x": torch.zeros(2)}, made / "foreign.safetensors")
    (made / "photo.png").write_bytes(b"\x89PNG\r\n")
    (made / "empty").mkdir()
    return made


KINDS = {
    "my runs/finished": "run",
    "my runs/unfinished": "run",
    "my runs/finished/run.json": "run",
    "my runs/search": "search",
    "my runs/explanation": "explanation",
    "my runs/finished/model.safetensors": "model",
    "my runs/finished/predictions.safetensors": "predictions",
    "whole.safetensors": "model",
    "grafts.safetensors": "grafts",
}


@pytest.mark.parametrize("place", KINDS)
def test_everything_of_ours_is_named_with_figures_and_commands(attngraft, folder: Path, place: str):
    code, out, err = attngraft("show", folder / place, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["kind"] == KINDS[place]
    assert found["figures"]
    assert bool(found["commands"]) == (found["kind"] != "grafts")
    assert ("ag.load_grafts_(model, " in str(found["figures"].get("use"))) == (found["kind"] == "grafts")
    code, out, _ = attngraft("show", folder / place)
    assert code == 0
    assert found["title"].split(":")[0] in out
    assert all(command in out for command in found["commands"])


def test_every_fixture_that_is_a_folder_of_a_verb_is_known(folder: Path):
    documents = [path for path in (folder / "my runs").rglob("*.json") if path.name in ("run.json", "store.json")]
    assert {identify(path.parent).kind for path in documents} <= {"run", "store"}
    assert len(documents) > 3


@pytest.mark.parametrize("place", ["empty", "photo.png", "foreign.safetensors", "nowhere", "my runs", "."])
def test_what_is_not_ours_is_one_sentence(attngraft, folder: Path, place: str):
    code, out, err = attngraft("show", folder / place)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert ("attngraft runs" in err) == (place in ("my runs", "."))


@pytest.mark.parametrize("name", ["run.json", "comparison.json", "bench.json", "store.json", "manifest.json"])
@pytest.mark.parametrize("text", ["", "[]", "{}", '{"status": 1, "results": 3, "seeds": 2}', "\0"])
def test_a_damaged_document_is_one_sentence(attngraft, tmp_path: Path, name: str, text: str):
    (tmp_path / name).write_text(text)
    code, _, err = attngraft("show", tmp_path)
    assert code in ((0, 2) if name == "run.json" else (2,)), err
    assert len(err.splitlines()) <= 1


def test_show_needs_no_pytorch(folder: Path):
    code = "import sys\nfrom attngraft.cli import app\n"
    code += f"app(['show', {str(folder / 'my runs/finished')!r}], standalone_mode=False)\n"
    code += f"app(['runs', {str(folder)!r}], standalone_mode=False)\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


# --- runs


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_all_runs_below_a_folder_are_tabulated(attngraft, folder: Path):
    code, out, err = attngraft("runs", folder, "--csv")
    assert code == 0, err
    rows = rows_of(out)
    assert {"my runs/finished", "my runs/unfinished"} <= {row["run"] for row in rows}
    assert {row["status"] for row in rows} == {"finished", "running"}
    assert len(json.loads(attngraft("runs", folder, "--json")[1])) == len(rows)


CONDITIONS = {
    "status=finished": lambda row: row["status"] == "finished",
    "status!=finished": lambda row: row["status"] != "finished",
    "top1>=0%": lambda row: row["top1"] != "",
    "variant=c*": lambda row: row["variant"].startswith("c"),
    "seed=1": lambda row: row["seed"] == "1",
    "loss<1e9": lambda row: row["loss"] != "",
    "top-1>2": lambda row: row["top1"] != "" and float(row["top1"]) > 2,
}


@pytest.mark.parametrize("condition", CONDITIONS)
def test_runs_are_filtered(attngraft, folder: Path, condition: str):
    everything = rows_of(attngraft("runs", folder, "--csv")[1])
    code, out, err = attngraft("runs", folder, "--csv", "--where", condition)
    assert code == 0, err
    assert rows_of(out) == [row for row in everything if CONDITIONS[condition](row)]


def test_runs_are_sorted_and_those_without_a_value_come_last(attngraft, folder: Path):
    rows = rows_of(attngraft("runs", folder, "--csv", "--sort", "-loss")[1])
    values = [float(row["loss"]) for row in rows if row["loss"]]
    assert values == sorted(values, reverse=True)
    assert rows[-1]["loss"] == ""


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--where", "topp1=3"], "did you mean 'top1'"),
        (["--where", "top1"], "expected KEY=VALUE"),
        (["--where", "top1>much"], "expected a number"),
        (["--sort", "accuracy"], "runs have no 'accuracy'"),
        (["--filter", "seed=0"], "Did you mean --where?"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(attngraft, folder: Path, options: list[str], words: str):
    code, out, err = attngraft("runs", folder, *options)
    assert (code, out) == (2, "")
    assert words in err


@pytest.mark.parametrize("place", ["empty", "nowhere"])
def test_a_folder_without_runs_is_refused(attngraft, folder: Path, place: str):
    assert attngraft("runs", folder / place)[0] == 2


@pytest.mark.parametrize("columns", [72, 80])
def test_the_table_of_runs_is_whole_in_a_narrow_terminal(attngraft, folder: Path, columns: int):
    code, out, _ = attngraft("runs", folder)
    assert code == 0
    assert "…" not in out
    assert all(len(line) <= columns for line in out.splitlines()[2:])


def test_predict_names_the_runs_of_a_folder_that_has_none_itself(attngraft, folder: Path):
    code, _, err = attngraft("predict", folder / "my runs", folder / "photo.png")
    assert code == 2
    assert "runs below it have one" in err
    assert f"attngraft runs '{folder / 'my runs'}'" in err


def test_the_next_commands_of_a_run_of_an_own_network_know_its_code(attngraft, folder: Path, tmp_path: Path):
    run = tmp_path / "run"
    shutil.copytree(FIXTURES / "finished", run)
    record = json.loads((run / "run.json").read_text())
    record.pop("sha256", None)
    (run / "run.json").write_text(json.dumps(record | {"backbone": "own:net.py:make@0123456789ab"}))
    commands = identify(run).commands
    reading = [command for command in commands if " report " not in command]
    assert reading
    assert all(command.startswith("attngraft --network net.py:make ") for command in reading)


def test_the_next_commands_of_a_store_of_an_own_network_know_its_code(tmp_path: Path):
    store = tmp_path / "store"
    base = store / "base" / "model.safetensors"
    shutil.copytree(FIXTURES / "store", store)
    commands = identify(store).commands
    assert commands[1].startswith("attngraft predict ")
    with safe_open(base, "pt") as file:
        metadata = file.metadata()
    header = json.loads(metadata["attngraft"])
    header["backbone"]["spec"] = "own:net.py:make@0123456789ab"
    save_file(load_file(base), base, {**metadata, "attngraft": json.dumps(header)})
    commands = identify(store).commands
    assert all(command.startswith("attngraft --network net.py:make ") for command in commands)


def test_the_network_belongs_before_the_verb(attngraft):
    code, _, err = attngraft("predict", "run", "image.png", "--network", "net.py:make")
    assert code == 2
    assert "Put it before: attngraft --network FILE.py:FUNCTION predict" in err
    code, _, err = attngraft("fit", "photos", "--network", "net.py:make")
    assert "Did you mean --backbone?" in err
    code, _, err = attngraft("--network", "small-cnn", "predict", "run", "image.png")
    assert (code, err.split(":")[0]) == (2, "error")
    assert "expected FILE.py:FUNCTION" in err

"""Checkpoints: whole or not there, without pickle, and the one before where the newest is damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from attngraft.errors import RunError, TrainingError
from attngraft.training.checkpoint import (
    Checkpoint,
    Position,
    optimizer_tensors,
    parameter_names,
    read_checkpoint,
    read_newest,
    remove_checkpoints,
    restore_optimizer_,
    write_checkpoint,
)
from attngraft.training.dynamic_attention import Pace


def checkpoint_at(step: int, **tensors: torch.Tensor) -> Checkpoint:
    return Checkpoint(Position(global_step=step), {"model/weight": torch.full((3,), float(step)), **tensors})


def test_what_is_written_is_read(tmp_path: Path):
    position = Position(1, 2, 3, 4, 5, 0.1, 7, 8, 9.5, 0.25, 0.1, (float("inf"), 0.0), (0.3, 2.0), True)
    position.pace = Pace(0.5, 1.2, (0.7,))
    position.history = [{"epoch": 1}]
    tensors = {"model/a": torch.randn(2, 3), "best/a": torch.tensor(3), "optimizer/a//step": torch.tensor(2.0)}
    found = read_checkpoint(write_checkpoint(tmp_path, Checkpoint(position, tensors)))
    assert found.position == position
    assert found.tensors.keys() == tensors.keys()
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in tensors.items())
    assert found.part("model").keys() == {"a"}


def test_only_the_newest_few_are_kept(tmp_path: Path):
    for step in (1, 2, 30, 4):
        write_checkpoint(tmp_path, checkpoint_at(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-000000004.safetensors",
        "step-000000030.safetensors",
    ]
    newest = read_newest(tmp_path)
    assert newest is not None
    assert newest.position.global_step == 30


def test_no_checkpoints_are_no_error(tmp_path: Path):
    assert read_newest(tmp_path / "none") is None


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_truncated_newest_falls_back_to_the_one_before(tmp_path: Path, keep: int):
    write_checkpoint(tmp_path, checkpoint_at(1))
    newest = write_checkpoint(tmp_path, checkpoint_at(2))
    newest.write_bytes(newest.read_bytes()[:keep])
    found = read_newest(tmp_path)
    assert found is not None
    assert found.position.global_step == 1


def test_all_damaged_is_an_error_that_says_which(tmp_path: Path):
    for step in (1, 2):
        path = write_checkpoint(tmp_path, checkpoint_at(step))
        path.write_bytes(b"nonsense")
    with pytest.raises(RunError, match=r"step-000000002.*is damaged"):
        read_newest(tmp_path)


def test_another_format_is_one_sentence(tmp_path: Path):
    path = tmp_path / "step-000000001.safetensors"
    save_file({"a": torch.zeros(1)}, path, {"format": "99", "position": "{}"})
    with pytest.raises(RunError, match="has format 99") as caught:
        read_newest(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("position", ["{", "[]", '{"unknown": 1}', '{"phase": "x"}', "null"])
def test_a_damaged_header_is_an_error(tmp_path: Path, position: str):
    path = tmp_path / "step-000000001.safetensors"
    save_file({"a": torch.zeros(1)}, path, {"format": "1", "position": position})
    with pytest.raises(RunError, match="cannot be read"):
        read_checkpoint(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path, value: float):
    write_checkpoint(tmp_path, checkpoint_at(1))
    with pytest.raises(TrainingError, match=r"model/bad is not finite at step 2"):
        write_checkpoint(tmp_path, checkpoint_at(2, **{"model/bad": torch.tensor([1.0, value])}))
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000001.safetensors"]


def test_what_a_killed_writer_left_is_cleared_away(tmp_path: Path):
    (tmp_path / ".step-000000001.safetensors.abc.part").write_bytes(b"half")
    write_checkpoint(tmp_path, checkpoint_at(2))
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000002.safetensors"]


def test_a_failed_write_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_checkpoint(tmp_path, checkpoint_at(1))

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("attngraft.files.os.replace", full)
    with pytest.raises(RunError, match="No space left on device"):
        write_checkpoint(tmp_path, checkpoint_at(2))
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000001.safetensors"]
    assert read_newest(tmp_path) is not None


def test_removing_takes_the_folder_but_nothing_of_others(tmp_path: Path):
    write_checkpoint(tmp_path / "mine", checkpoint_at(1))
    remove_checkpoints(tmp_path / "mine")
    assert not (tmp_path / "mine").exists()
    write_checkpoint(tmp_path / "shared", checkpoint_at(1))
    (tmp_path / "shared" / "note.txt").write_text("mine")
    remove_checkpoints(tmp_path / "shared")
    assert [path.name for path in (tmp_path / "shared").iterdir()] == ["note.txt"]


def test_the_file_is_plain_safetensors(tmp_path: Path):
    path = write_checkpoint(tmp_path, checkpoint_at(7))
    with safe_open(path, framework="np") as file:
        assert json.loads(file.metadata()["position"])["global_step"] == 7
        assert file.get_tensor("model/weight").tolist() == [7.0, 7.0, 7.0]


@pytest.mark.parametrize(
    "make",
    [
        lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9),
        lambda groups: torch.optim.Adam(groups, lr=0.1),
        lambda groups: torch.optim.AdamW(groups, lr=0.1),
    ],
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_restored_optimizer_takes_the_same_next_step(make, layout: torch.memory_format):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Conv2d(5, 7, 1), nn.Flatten(), nn.Linear(28, 2)).to(
        memory_format=layout
    )
    batches = torch.randn(4, 2, 3, 4, 4)

    def groups_of(network: nn.Module) -> list[dict]:
        parameters = list(network.parameters())
        return [{"params": parameters[3:]}, {"params": parameters[:3], "lr": 0.01}]

    def step_(network: nn.Module, optimizer: torch.optim.Optimizer, images: torch.Tensor) -> None:
        optimizer.zero_grad()
        network(images.to(memory_format=layout)).square().sum().backward()
        optimizer.step()

    optimizer = make(groups_of(model))
    for images in batches[:2]:
        step_(model, optimizer, images)
    tensors = {
        name: t.clone().contiguous()
        for name, t in optimizer_tensors(optimizer, parameter_names(model, optimizer)).items()
    }
    twin = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Conv2d(5, 7, 1), nn.Flatten(), nn.Linear(28, 2)).to(
        memory_format=layout
    )
    twin.load_state_dict(model.state_dict())
    other = make(groups_of(twin))
    restore_optimizer_(
        other, parameter_names(twin, other), {n.removeprefix("optimizer/"): t for n, t in tensors.items()}
    )
    for one, two in zip(optimizer.state.values(), other.state.values(), strict=True):
        assert one.keys() == two.keys()
        assert all(one[key].stride() == two[key].stride() for key in one)
    for images in batches[2:]:
        step_(model, optimizer, images)
        step_(twin, other, images)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, twin.state_dict()[name]), name


def test_the_state_of_other_parameters_is_refused():
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(RunError, match=r"'other\.weight', which is not trained"):
        restore_optimizer_(
            optimizer, parameter_names(model, optimizer), {"other.weight//momentum_buffer": torch.zeros(2)}
        )

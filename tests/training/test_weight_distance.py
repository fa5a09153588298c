"""How far the parts of a network move in training: in rows, over a resume, and on the page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_resume import ADAMW_EMA, grafted_model
from torch import nn
from training_helpers import TWO_PHASES, coloured_squares, droppy_model, run_fit

from attngraft.reporting import write_report
from attngraft.reporting.run_page import distance_chart
from attngraft.training import Recipe, weight_distance
from attngraft.training.checkpoint import read_newest, write_checkpoint
from attngraft.training.phases import Anatomy, dissect
from attngraft.training.weight_distance import distances, project

SOLVED = Recipe("solved", TWO_PHASES, optimizer="sgd", head="solve", batch_size=16)
TITLE = "What training did to each part of the network"


def parts_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """All parameters of each part, as one vector."""
    found: dict[str, list[torch.Tensor]] = {}
    for name, part in dissect(model, (3, 16, 16)).parts.items():
        key = part if isinstance(part, str) else f"stage {part}"
        found.setdefault(key, []).append(model.get_parameter(name).detach().double().flatten())
    return {part: torch.cat(vectors) for part, vectors in found.items()}


def test_rows_have_the_distance_of_each_part_from_the_weights_at_the_start(tmp_path: Path):
    model = grafted_model()
    before = parts_of(model)
    result = run_fit(model, coloured_squares(), tmp_path / "run", recipe=replace(ADAMW_EMA, ema_decay=0.0))
    after = parts_of(result.model.cpu())
    expected = {part: float((after[part] - start).norm() / start.norm()) for part, start in before.items()}
    assert result.history[-1]["moved"] == pytest.approx(expected, rel=1e-4)
    assert set(expected) == {"stage 0", "grafts", "head"}
    first = result.history[0]["moved"]
    assert first["stage 0"] == 0  # frozen in the first phase
    assert first["head"] > 0


def test_a_head_that_was_solved_is_where_it_starts(tmp_path: Path):
    still = replace(SOLVED, phases=(replace(TWO_PHASES[1], epochs=1, lr=1e-9),))
    moved = run_fit(droppy_model(), coloured_squares(), tmp_path / "run", recipe=still).history[0]["moved"]
    assert 0 < moved["head"] < 1e-5


def test_large_parts_are_estimated_within_a_few_percent(monkeypatch):
    monkeypatch.setattr(weight_distance, "ROWS", 3)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(900, 700), nn.Linear(700, 3))
    anatomy = Anatomy({name: 0 for name, _ in model.named_parameters()}, 1)
    start = project(model, anatomy)
    before = torch.cat([p.detach().flatten() for p in model.parameters()])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.99).add_(torch.randn_like(parameter) * 1e-3)
    after = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert len(start["stage 0"]) == weight_distance.SIZE < len(before)
    exact = float((after - before).norm() / before.norm())
    assert distances(project(model, anatomy), start)["stage 0"] == pytest.approx(exact, rel=0.03)


def test_a_part_that_starts_at_zero_has_no_distance():
    assert distances({"grafts": torch.ones(3)}, {"grafts": torch.zeros(3)}) == {}


def test_a_training_that_an_earlier_version_began_goes_on_without_distances(tmp_path: Path):
    def stop(rows: object) -> bool:
        raise RuntimeError("enough")

    data = coloured_squares()
    with pytest.raises(RuntimeError, match="enough"):
        run_fit(droppy_model(), data, tmp_path / "run", recipe=SOLVED, on_epoch=stop)
    folder = tmp_path / "run" / "checkpoints"
    newest = read_newest(folder)
    assert newest is not None
    for row in newest.position.history:
        del row["moved"]
    for path in folder.iterdir():
        path.unlink()
    kept = {name: tensor for name, tensor in newest.tensors.items() if not name.startswith("start/")}
    write_checkpoint(folder, replace(newest, tensors=kept))
    result = run_fit(droppy_model(), data, tmp_path / "run", recipe=SOLVED)
    assert len(result.history) == SOLVED.epochs
    assert not any("moved" in row for row in result.history)
    assert TITLE not in write_report(tmp_path / "run").read_text(encoding="utf-8")


def test_the_page_shows_what_has_moved_from_the_input_to_the_head(tmp_path: Path):
    result = run_fit(grafted_model(), coloured_squares(), tmp_path / "run", recipe=ADAMW_EMA)
    page = write_report(tmp_path / "run").read_text(encoding="utf-8")
    assert TITLE in page
    assert "math" not in page  # powers of ten would be markup
    chart = distance_chart(result.history)
    assert chart is not None
    assert [item.label for item in chart.legend] == ["stage 1", "grafts", "head"]
    assert f"stage 1: {100 * result.history[-1]['moved']['stage 0']:.3g} % in the last epoch" in chart.alt


@pytest.mark.parametrize("moved", [None, [], "far", {"head": "far"}, {"head": None}, {"head": 0.0}])
def test_a_row_without_distances_has_no_plot(moved: object):
    assert distance_chart([{"epoch": 1, "moved": moved}]) is None


@pytest.mark.parametrize(("val", "split"), [(12, "val"), (0, "train")])
def test_a_solved_head_is_measured_before_the_first_epoch(tmp_path: Path, capsys, val: int, split: str):
    still = replace(SOLVED, phases=(replace(TWO_PHASES[1], epochs=1, lr=1e-12),), augment="none", batchnorm="frozen")
    model = droppy_model()
    for norm in (model.stem[1], model.branch[1]):
        norm.running_mean.fill_(0.2)
    result = run_fit(model, coloured_squares(val=val), tmp_path / "run", recipe=still)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("epoch 0:")]
    assert len(lines) == 1
    assert lines[0].startswith(f"epoch 0: head solved, {split} loss ")
    loss = float(lines[0].split(" loss ")[1].split(",")[0])
    if val:
        assert loss == pytest.approx(result.history[0]["eval_loss"], rel=1e-3)
    else:
        assert loss < 0.1  # the training images that the head was solved on

"""Learning rates against numbers worked out by hand and against PyTorch's schedulers."""

from __future__ import annotations

import warnings

import pytest
import torch
from training_helpers import small_model

from attngraft.training import Phase, Recipe, load_recipe
from attngraft.training.optimizers import Plateau, build_optimizer, rate_factor, set_rates_
from attngraft.training.phases import dissect, parameter_groups


def scheduler_factors(make, steps: int) -> list[float]:
    """Rates that a PyTorch scheduler gives at each step of an optimiser whose rate is 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no optimiser step is taken here
        for _ in range(steps):
            found.append(optimizer.param_groups[0]["lr"])
            scheduler.step()
    return found


def factors(phase: Phase, steps: int) -> list[float]:
    return [rate_factor(phase, step / steps, 1 / steps) for step in range(steps)]


def test_constant_is_constant():
    assert factors(Phase("p", schedule="constant"), 7) == [1.0] * 7


def test_plateau_leaves_the_rate_to_the_drops():
    assert factors(Phase("p", schedule="plateau"), 7) == [1.0] * 7


def test_step_drops_again_and_again():
    phase = Phase("p", schedule="step", epochs=6, step_epochs=2, gamma=0.5)
    assert factors(phase, 12) == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25]


@pytest.mark.parametrize("epochs", [3, 7, 9, 30, 49])
def test_step_drops_exactly_at_the_epoch(epochs: int):
    phase = Phase("p", schedule="step", epochs=epochs, step_epochs=1, gamma=0.5)
    per_epoch = 7
    found = factors(phase, epochs * per_epoch)
    assert found == [0.5 ** (i // per_epoch) for i in range(epochs * per_epoch)]


def test_multistep_drops_at_the_milestones():
    phase = Phase("p", schedule="multistep", milestones=(0.5, 0.75), gamma=0.1)
    assert factors(phase, 8) == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])


def test_multistep_is_the_one_of_pytorch():
    phase = Phase("p", schedule="multistep", milestones=(0.25, 0.75), gamma=0.3)
    theirs = scheduler_factors(lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [10, 30], gamma=0.3), 40)
    assert factors(phase, 40) == pytest.approx(theirs)


def test_cosine_is_the_one_of_pytorch():
    theirs = scheduler_factors(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=50), 50)
    assert factors(Phase("p", schedule="cosine"), 50) == pytest.approx(theirs, abs=1e-9)


def test_cosine_by_hand():
    assert factors(Phase("p", schedule="cosine"), 4) == pytest.approx([1, 0.8535533906, 0.5, 0.1464466094])


def test_one_cycle_is_the_one_of_pytorch():
    steps = 2000  # PyTorch starts to fall one step earlier, so the two agree to about pi / 0.3 / steps
    theirs = scheduler_factors(
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=1.0, total_steps=steps, pct_start=0.3), steps
    )
    ours = factors(Phase("p", schedule="one-cycle", warmup=0.3), steps)
    assert ours == pytest.approx(theirs, abs=3e-3)
    assert ours[0] == pytest.approx(theirs[0])
    assert max(ours) == pytest.approx(1.0)


def test_warmup_rises_from_nothing_and_the_rest_starts_at_the_top():
    phase = Phase("p", schedule="cosine", warmup=0.5)
    assert factors(phase, 8) == pytest.approx([0.25, 0.5, 0.75, 1, 1, 0.8535533906, 0.5, 0.1464466094])


def test_a_phase_of_a_single_step_trains_at_its_full_rate():
    for schedule in ("constant", "cosine", "step", "multistep", "plateau"):
        assert factors(Phase("p", schedule=schedule, warmup=0.1), 1) == [1.0]


def test_the_scratch_recipe_drops_after_one_and_two_thirds():
    phase = load_recipe("scratch").phases[0]
    assert factors(phase, 3) == pytest.approx([1, 0.1, 0.01])
    assert factors(phase, 60)[19:21] == pytest.approx([1, 0.1])
    assert factors(phase, 60)[39:41] == pytest.approx([0.1, 0.01])


def test_warmup_before_a_constant_rate():
    assert factors(Phase("p", schedule="constant", warmup=0.5), 4) == pytest.approx([0.5, 1, 1, 1])


def test_plateau_waits_and_starts_its_count_anew():
    plateau = Plateau(2)
    losses = [1.0, 0.9, 0.95, 0.9, 0.85, 0.9, 0.9, 0.9, 0.9]
    assert [plateau.update(loss) for loss in losses] == [
        False,  # the first is the best so far
        False,
        False,
        True,  # equal is not lower: the second epoch without progress
        False,
        False,
        True,
        False,
        True,
    ]
    assert plateau.state == (0.85, 0.0)


def test_plateau_without_patience_never_acts_but_knows_the_best():
    plateau = Plateau(0)
    assert not any(plateau.update(loss) for loss in [1.0, 2.0, 3.0, 0.5, 4.0])
    assert plateau.best == 0.5


def test_a_loss_that_is_no_number_counts_as_no_progress():
    plateau = Plateau(1)
    assert plateau.update(float("nan"))
    assert not plateau.update(1.0)


def test_plateau_goes_on_from_its_state():
    losses = [1.0, 0.9, 0.95, 0.9, 0.85, 0.9, 0.9, 0.9, 0.9]
    whole, parts = Plateau(2), []
    state = Plateau(2).state
    for loss in losses:
        part = Plateau(2)
        part.restore(state)
        parts.append(part.update(loss))
        state = part.state
    assert parts == [whole.update(loss) for loss in losses]
    assert state == whole.state


@pytest.mark.parametrize(
    ("name", "kind"), [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)]
)
def test_the_optimizer_is_the_one_asked_for_and_its_rates_follow_the_factor(name: str, kind: type):
    model, phase = small_model(), Phase("p", lr=0.2, lr_decay=0.5)
    recipe = Recipe("r", (phase,), optimizer=name, nesterov=True, weight_decay=0.1)
    groups = parameter_groups(model, dissect(model, (3, 16, 16)), phase, recipe)
    optimizer = build_optimizer(model, groups, recipe)
    assert type(optimizer) is kind
    assert set_rates_(optimizer, 0.5) == pytest.approx(0.1)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([group.lr / 2 for group in groups])
    assert [group["weight_decay"] for group in optimizer.param_groups] == [group.weight_decay for group in groups]
    assert set_rates_(optimizer, 1.0) == pytest.approx(0.2)


def test_nesterov_without_momentum_is_plain_sgd():
    model, phase = small_model(), Phase("p")
    recipe = Recipe("r", (phase,), optimizer="sgd", momentum=0.0, nesterov=True)
    groups = parameter_groups(model, dissect(model, (3, 16, 16)), phase, recipe)
    assert not build_optimizer(model, groups, recipe).param_groups[0]["nesterov"]

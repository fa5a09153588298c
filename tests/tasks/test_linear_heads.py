"""Solved heads are the minima that they claim to be, and as good on unseen images as scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge, RidgeCV
from torch.nn import functional as F

from attngraft.data.splits import deal
from attngraft.tasks import linear_heads
from attngraft.tasks.linear_heads import STRENGTHS, Folds, LinearHead, logistic_head, ridge_head

ONE = torch.ones(1)


def blobs(
    count: int, width: int, classes: int, seed: int = 0, spread: float = 2.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Features with a shift and a scale of their own, and the class of each."""
    draw = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(count) % classes
    return 5 + 3 * (centres[labels] + spread * torch.randn(count, width, generator=draw)), labels


def folds(labels: np.ndarray) -> Folds:
    return deal(labels, [str(i) for i in range(len(labels))], folds=5, seed=0)


def solved(features: torch.Tensor, labels: torch.Tensor, classes: int, weights: torch.Tensor = ONE) -> LinearHead:
    return logistic_head(features, labels, outputs=classes, left_out=folds(labels.numpy()), weights=weights)


def outputs_of(head: LinearHead, features: torch.Tensor) -> torch.Tensor:
    return features @ head.weight.T + head.bias


@pytest.mark.parametrize(("count", "width"), [(60, 12), (60, 200), (400, 12)])
def test_the_classes_of_scikit_learn_come_out_at_the_same_strength(count: int, width: int):
    features, labels = blobs(count, width, 3)
    head = solved(features, labels, 3)
    size = float((features - features.mean(0)).square().mean().sqrt())
    model = LogisticRegression(C=1 / (head.strengths[0] * count), tol=1e-8, max_iter=5000)
    model.fit(((features - features.mean(0)) / size).double().numpy(), labels.numpy())
    expected = model.predict_proba(((features - features.mean(0)) / size).double().numpy())
    np.testing.assert_allclose(outputs_of(head, features).softmax(1).numpy(), expected, atol=5e-3)


@pytest.mark.parametrize("spread", [0.5, 2.0, 6.0])
def test_the_strength_is_as_good_on_unseen_images_as_the_best_one(spread: float):
    features, labels = blobs(120, 40, 4, spread=spread)
    unseen, truth = blobs(2000, 40, 4, seed=1, spread=spread)
    found = float(F.cross_entropy(outputs_of(solved(features, labels, 4), unseen), truth))
    losses = []
    for strength in STRENGTHS:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(linear_heads, "STRENGTHS", (strength,))
            losses.append(float(F.cross_entropy(outputs_of(solved(features, labels, 4), unseen), truth)))
    assert found < 1.1 * min(losses) + 0.02
    assert max(losses) > 1.3 * min(losses)


def test_the_same_features_give_the_same_bits():
    features, labels = blobs(90, 30, 3)
    one, other = solved(features, labels, 3), solved(features.clone(), labels.clone(), 3)
    assert torch.equal(one.weight, other.weight)
    assert torch.equal(one.bias, other.bias)


def test_rare_classes_count_as_much_with_weights():
    features, labels = blobs(300, 8, 2, spread=4.0)
    few = torch.nonzero((labels == 0) | (torch.arange(300) < 40))[:, 0]
    features, labels = features[few], labels[few]
    counts = torch.bincount(labels)
    plain = solved(features, labels, 2)
    weighted = solved(features, labels, 2, (len(labels) / (2 * counts))[labels])
    rare = labels == 1
    recall = [float((outputs_of(head, features)[rare].argmax(1) == 1).float().mean()) for head in (plain, weighted)]
    assert recall[1] > recall[0] + 0.2


@pytest.mark.parametrize(
    ("features", "labels"),
    [
        (torch.ones(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])),
        (torch.randn(1, 4), torch.tensor([1])),
        (torch.randn(5, 4), torch.tensor([1, 1, 1, 1, 1])),
        (torch.randn(8, 1), torch.tensor([0, 1] * 4)),
        (torch.randn(8, 3) * 1e-6, torch.tensor([0, 1] * 4)),
        (torch.randn(8, 3) * 1e6, torch.tensor([0, 1] * 4)),
    ],
    ids=["all alike", "one image", "one class", "one feature", "tiny", "huge"],
)
def test_odd_features_give_finite_heads(features: torch.Tensor, labels: torch.Tensor):
    head = solved(features, labels, 3)
    assert head.weight.shape == (3, features.shape[1])
    assert torch.isfinite(head.weight).all()
    assert torch.isfinite(head.bias).all()


def test_features_that_say_nothing_give_the_frequencies():
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    head = solved(torch.ones(100, 4), labels, 3)
    np.testing.assert_allclose(outputs_of(head, torch.ones(1, 4)).softmax(1)[0].numpy(), [0.6, 0.3, 0.1], atol=1e-3)


def test_each_label_has_a_strength_of_its_own():
    features, classes = blobs(200, 20, 2, spread=1.0)
    noise = torch.from_numpy(np.random.default_rng(0).integers(0, 2, 200))
    labels = torch.stack([classes, noise], 1)
    head = logistic_head(features, labels.float(), outputs=2, left_out=folds(classes.numpy()), weights=ONE)
    clear, random = head.strengths
    assert clear < random
    size = float((features - features.mean(0)).square().mean().sqrt())
    scaled = ((features - features.mean(0)) / size).double().numpy()
    for label, strength in enumerate(head.strengths):
        model = LogisticRegression(C=1 / (strength * 200), tol=1e-8, max_iter=5000).fit(
            scaled, labels[:, label].numpy()
        )
        found = outputs_of(head, features)[:, label].sigmoid().numpy()
        np.testing.assert_allclose(found, model.predict_proba(scaled)[:, 1], atol=5e-3)


@pytest.mark.parametrize(("count", "width"), [(50, 8), (50, 120)])
def test_ridge_is_scikit_learns(count: int, width: int):
    draw = np.random.default_rng(0)
    features = 4 + 2 * draw.normal(size=(count, width)).astype(np.float32)
    targets = np.stack([features[:, :3].sum(1) + draw.normal(size=count), draw.normal(size=count)], 1)
    head = ridge_head(torch.from_numpy(features), torch.from_numpy(targets))
    size = np.sqrt(np.square(features - features.mean(0)).mean())
    scaled = (features.astype(np.float64) - features.mean(0)) / size
    for target in range(2):
        reference = Ridge(alpha=head.strengths[target] * count).fit(scaled, targets[:, target])
        predicted = outputs_of(head, torch.from_numpy(features))[:, target].numpy()
        np.testing.assert_allclose(predicted, reference.predict(scaled), atol=2e-3)
        chosen = RidgeCV([strength * count for strength in STRENGTHS]).fit(scaled, targets[:, target])
        assert head.strengths[target] == pytest.approx(chosen.alpha_ / count, rel=1e-5)


def test_large_problems_choose_on_some_of_the_images(monkeypatch):
    features, labels = blobs(300, 10, 3)
    monkeypatch.setattr(linear_heads, "MOST_CHOSEN_ON", 60)
    part = torch.linspace(0, 299, 60).long()
    few = logistic_head(
        features[part], labels[part], outputs=3, left_out=folds(labels.numpy())[part.numpy()], weights=ONE
    )
    assert solved(features, labels, 3).strengths[0] == pytest.approx(few.strengths[0] / 5)


def test_large_problems_leave_out_fewer_folds(monkeypatch):
    """How strong L2 has to be is then seen on one part of the images instead of all."""
    features, labels = blobs(300, 10, 3)
    spread, fits = solved(features, labels, 3), []
    original = linear_heads._Axes.of
    monkeypatch.setattr(linear_heads._Axes, "of", lambda part: fits.append(len(part)) or original(part))
    monkeypatch.setattr(linear_heads, "MOST_WORK", 1.5 * features.numel() * 3)
    one = solved(features, labels, 3)
    assert fits == [240, 300]
    assert abs(np.log10(one.strengths[0] / spread.strengths[0])) <= 0.51

"""What the gates of a model do over many images, site by site, and what its classes lean on."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from grafting_helpers import stir_grafts_
from PIL import Image
from torch import Tensor, nn

import attngraft as ag
from attngraft.attention import ATTENTIONS, Attention, Gates, attentions
from attngraft.data import UNLABELLED, ImageSet
from attngraft.data.pixel_store import decode_array
from attngraft.errors import ConfigError, DataError, GraftError, InputError
from attngraft.explanation.gates import gates
from attngraft.explanation.image_source import view_of
from attngraft.surgery import computing, grafts, note_classes_, watching

SIZE = (3, 32, 32)
CLASSES = ("red", "green", "blue", "grey")
every_init = pytest.mark.parametrize("init", ["identity", "paper"])


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def backbone() -> nn.Module:
    torch.manual_seed(0)
    return note_classes_(ag.create_backbone("small-cnn", num_classes=4).eval(), CLASSES)


@pytest.fixture(scope="module")
def pristine(backbone: nn.Module) -> nn.Module:
    return stir_grafts_(ag.graft(backbone, "cbam", input_size=SIZE))


@pytest.fixture
def model(pristine: nn.Module) -> nn.Module:
    return copy.deepcopy(pristine)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(11, *SIZE, generator=torch.Generator().manual_seed(0))


def labelled(labels: list[int], size: int = 32) -> ImageSet:
    """Noise; the brightness of a colour goes with the class."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 100, (len(labels), size, size, 3))
    pixels[np.arange(len(labels)), :, :, np.asarray(labels) % 3] += 120
    decoded = decode_array(pixels.astype(np.uint8), limit=100)
    ids = tuple(f"{i}" for i in range(len(labels)))
    return ImageSet(ids, np.asarray(labels, dtype=np.int64), decoded.hashes, decoded.store, np.arange(len(labels)))


def present(found: Gates) -> dict[str, Tensor]:
    return {f.name: getattr(found, f.name) for f in fields(Gates) if getattr(found, f.name) is not None}


@torch.no_grad()
def watched(model: nn.Module, images: Tensor) -> dict[str, Gates]:
    """The gates of all images at once."""
    seen: dict[str, Gates] = {}
    model = copy.deepcopy(model).eval()
    with watching(model, lambda path, x, found: seen.update({path: found})):
        model(images.to(next(model.parameters()).dtype))
    return seen


def footprint(model: nn.Module) -> list[object]:
    return [
        (path, sorted(module.__dict__), module.training, len(module._forward_hooks), len(module._forward_pre_hooks))
        for path, module in model.named_modules()
    ] + [(name, tensor.clone().nan_to_num(7).sum().item()) for name, tensor in model.state_dict().items()]


# --- what is found -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", attentions())
@every_init
def test_every_attention_is_surveyed_and_its_mean_gates_can_be_applied(backbone, images, name, init):
    model = stir_grafts_(ag.graft(backbone, name, init=init, input_size=SIZE))
    live, expected = grafts(model), watched(model, images)
    survey = gates(model, images, keep=3, batch_size=4)
    assert list(survey) == list(expected) == list(live)
    assert (survey.images, survey.classes) == (11, CLASSES)
    for depth, (path, site) in enumerate(survey.items()):
        whole = present(expected[path])
        assert (site.path, site.depth, site.attention) == (path, depth, name)
        assert (site.channels, site.height, site.width) == _site(model, path)
        assert site.statistics.keys() == set(live[path].parts) == whole.keys()
        assert site.by_class is None
        for part, values in whole.items():
            mean, kept = getattr(site.mean, part), getattr(site.kept, part)
            assert mean.shape == (1, *values.shape[1:])
            assert mean.dtype == kept.dtype == torch.float32
            torch.testing.assert_close(mean[0], values.mean(0), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(kept, values[:3], rtol=1e-4, atol=1e-5)
            statistics = site.statistics[part]
            assert statistics.elements == values[0].numel()
            assert statistics.mean == pytest.approx(values.mean().item(), rel=1e-4, abs=1e-5)
            distance = (values - live[path].neutral).abs().mean().item()
            assert statistics.distance == pytest.approx(distance, rel=1e-4, abs=1e-5)
            assert (statistics.saturated is None) == (live[path].limits is None)
    with torch.no_grad(), computing(model, {path: _constant(survey[path].mean) for path in survey}):
        assert model(images).isfinite().all()
    json.dumps(survey.to_json(), allow_nan=False)


def _site(model: nn.Module, path: str) -> tuple[int, int, int]:
    site = next(site for site in model.attngraft_plan.sites if site.path == path)
    return site.channels, site.height, site.width


def _constant(mean: Gates):
    return lambda attention, x: mean


def test_the_statistics_are_those_of_all_images(model, images):
    survey, expected = gates(model, images, batch_size=4), watched(model, images)
    for path, site in survey.items():
        for part, values in present(expected[path]).items():
            whole = values.double().numpy().reshape(len(images), -1)
            assert site.statistics[part].between == pytest.approx(whole.var(0).mean(), rel=1e-3, abs=1e-9)
            assert site.statistics[part].fixed == pytest.approx(whole.mean(0).var(), rel=1e-3, abs=1e-9)
            assert site.statistics[part].low == pytest.approx(whole.min(), rel=1e-5)
            assert site.statistics[part].high == pytest.approx(whole.max(), rel=1e-5)


def test_a_fresh_graft_changes_nothing_and_says_so(backbone, images):
    survey = gates(ag.graft(backbone, "cbam", input_size=SIZE), images)
    for site in survey.values():
        for statistics in site.statistics.values():
            assert (statistics.mean, statistics.distance, statistics.dynamic, statistics.swing) == (1, 0, 0, 0)
            assert (statistics.saturated, statistics.dead) == (0, 0)


def test_a_scale_that_does_not_look_is_fixed_and_never_dynamic(backbone, images):
    survey = gates(stir_grafts_(ag.graft(backbone, "static", input_size=SIZE)), images, batch_size=3)
    for site in survey.values():
        assert site.statistics["channel"].dynamic == site.statistics["channel"].between == 0
        assert site.statistics["channel"].fixed > 0.01


@pytest.mark.parametrize("keep", [0, 1, 4, 5, 11, 64])
def test_as_many_gates_are_kept_as_asked_for(model, images, keep):
    survey = gates(model, images, keep=keep, batch_size=4)
    for path, found in watched(model, images).items():
        for part, values in present(found).items():
            kept = getattr(survey[path].kept, part)
            assert kept.shape == (min(keep, 11), *values.shape[1:])
            torch.testing.assert_close(kept, values[:keep], rtol=1e-4, atol=1e-5)


def test_sites_come_in_the_order_in_which_they_run(images):
    class Backwards(nn.Module):
        """Runs its last child first."""

        def __init__(self) -> None:
            super().__init__()
            self.second = nn.Conv2d(4, 4, 1)
            self.first = nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x)).mean((2, 3))

    survey = gates(ag.graft(Backwards(), "se", where=["first", "second"], input_size=SIZE), images)
    assert [(site.path, site.depth) for site in survey.values()] == [("first", 0), ("second", 1)]


def test_an_attention_of_ones_own_goes_by_the_name_of_its_class(model, images):
    class Dim(Attention):
        def gates(self, x: Tensor) -> Gates:
            return Gates(channel=torch.full(x.shape[:2], 0.5))

    path, attention = next(iter(grafts(model).items()))
    model.get_submodule(path).graft = Dim(attention.channels, "identity")
    site = gates(model, images)[path]
    assert site.attention == "Dim"
    assert site.statistics["channel"].distance == 0.5


ANY_RANK = [name for name in attentions() if ATTENTIONS[name].build.any_rank]


@pytest.mark.parametrize("name", ANY_RANK)
@pytest.mark.parametrize("shape", [(3, 12), (3, 2, 4, 6)], ids=str)
def test_maps_of_any_rank(name, shape):
    conv = nn.Conv1d if len(shape) == 2 else nn.Conv3d
    network = nn.Sequential(conv(3, 8, 1), nn.ReLU(), nn.Flatten(2), nn.AdaptiveAvgPool1d(1), nn.Flatten())
    inputs = torch.randn(5, *shape, generator=torch.Generator().manual_seed(0))
    plan = ag.GraftPlan(name, (ag.Site("1", 8, 1, 1, "by hand"),))
    model = stir_grafts_(ag.graft_(network, plan, example_input=inputs[:2]))
    site = gates(model, inputs, batch_size=2)["1"]
    assert (site.channels, site.height * site.width, site.width) == (8, math.prod(shape[1:]), shape[-1])
    (part,) = site.statistics
    values = getattr(watched(model, inputs)["1"], part)
    torch.testing.assert_close(getattr(site.mean, part)[0], values.mean(0), rtol=1e-4, atol=1e-5)


def test_a_model_in_half_precision(model, images):
    single = gates(model, images)
    half = gates(model.to(torch.bfloat16), images)
    for path, site in half.items():
        assert site.kept.channel.dtype == torch.float32
        torch.testing.assert_close(site.mean.channel, single[path].mean.channel, rtol=0.1, atol=0.1)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


# --- by class ----------------------------------------------------------------------------------------------------

LABELS = [0, 1, 2, 0, 1, 0, 2, 1]  # no image of the last class


def test_means_by_class_are_those_of_its_images(model):
    view = view_of(model, labelled(LABELS), image_size=32)
    survey = gates(model, view, batch_size=3)
    expected = watched(model, torch.cat([x for x, _ in view.batches(torch.device("cpu"))]))
    for path, site in survey.items():
        channel = expected[path].channel.double().numpy()
        assert site.by_class.shape == (4, channel.shape[1])
        for label in range(3):
            mine = channel[np.asarray(LABELS) == label].mean(0)
            np.testing.assert_allclose(site.by_class[label], mine, rtol=1e-4, atol=1e-6)
        assert np.isnan(site.by_class[3]).all()


def test_similarity_and_leaning_by_hand(model):
    """Gates that depend on the class alone: classes 0 and 1 lean the same way, 2 the other."""
    wanted = torch.tensor([[1.2, 1.0, 0.8], [1.4, 1.0, 0.6], [0.4, 1.0, 1.6]])
    images, labels = labelled([0, 0, 1, 2], 8), [0, 0, 1, 2]
    path, attention = next(iter(grafts(model).items()))
    attention.gates = _Scripted(wanted[labels], attention.channels)
    survey = gates(model, view_of(model, images, image_size=32), batch_size=4)
    assert survey[path].by_class[:3, :3].tolist() == pytest.approx(wanted.double().numpy(), abs=1e-6)
    similarity = survey.class_similarity(path)
    assert similarity.shape == (4, 4)
    assert np.isnan(similarity[3]).all()
    assert np.isnan(similarity[:, 3]).all()
    # deviations from the mean (1, 1, 1) of the classes: (.2, 0, -.2), (.4, 0, -.4), (-.6, 0, .6)
    np.testing.assert_allclose(similarity[:3, :3], [[1, 1, -1], [1, 1, -1], [-1, -1, 1]], atol=1e-6)
    # the mean over the images is (1.05, 1, 0.95)
    top = survey.leaning(path, "blue", k=3)
    assert [channel for channel, _ in top[:1]] == [2]
    assert top[0][1] == pytest.approx(0.65, abs=1e-6)
    assert [difference for _, difference in top] == pytest.approx([0.65, 0, 0], abs=1e-6)
    assert survey.leaning(path, 2, k=3) == top
    everything = survey.leaning(path, "red", k=10**6)
    assert len(everything) == attention.channels
    assert everything[-1] == (2, pytest.approx(-0.15, abs=1e-6))
    json_site = survey.to_json()["sites"][0]
    assert json_site["class_similarity"][0][:3] == [1, 1, -1]
    assert json_site["class_similarity"][3] == [None] * 4
    assert json_site["leaning"].keys() == {"red", "green", "blue"}
    assert json_site["leaning"]["blue"][0] == [2, pytest.approx(0.65)]
    assert all(len(channels) == 5 for channels in json_site["leaning"].values())


class _Scripted:
    """Gates that were written down beforehand: the first channels as given, the others 1."""

    def __init__(self, rows: Tensor, channels: int) -> None:
        self.rows = torch.cat([rows, torch.ones(len(rows), channels - rows.shape[1])], 1)

    def __call__(self, x: Tensor) -> Gates:
        assert len(x) == len(self.rows)
        return Gates(channel=self.rows)


def test_classes_that_do_not_deviate_are_similar_to_none(backbone):
    model = stir_grafts_(ag.graft(backbone, "static", input_size=SIZE))
    survey = gates(model, view_of(model, labelled(LABELS), image_size=32))
    for path in survey:
        assert (survey.class_similarity(path)[:3, :3] == 0).all()
        assert all(abs(difference) < 1e-6 for _, difference in survey.leaning(path, "red"))


def test_one_class_alone_does_not_deviate(model):
    survey = gates(model, view_of(model, labelled([1, 1]), image_size=32))
    similarity = survey.class_similarity(next(iter(survey)))
    assert similarity[1, 1] == 0
    assert np.isnan(similarity).sum() == 15


def test_classes_without_names_go_by_their_numbers(model):
    note_classes_(model, ())
    survey = gates(model, view_of(model, labelled([0, 2, 2]), image_size=32))
    site = survey.to_json()["sites"][0]
    assert site["leaning"].keys() == {"0", "2"}
    assert len(site["class_similarity"]) == 3
    assert survey.leaning(site["path"], 2)


def test_similarities_of_very_many_classes_are_left_out_of_the_json(model):
    note_classes_(model, tuple(f"c{i}" for i in range(101)))
    survey = gates(model, view_of(model, labelled([0, 100]), image_size=32))
    site = survey.to_json()["sites"][0]
    assert site["class_similarity"] is None
    assert site["leaning"].keys() == {"c0", "c100"}
    assert survey.class_similarity(site["path"]).shape == (101, 101)


@pytest.mark.parametrize("labels", [None, [0, 1, UNLABELLED]], ids=["none", "some"])
def test_without_all_labels_nothing_is_said_about_classes(model, images, labels):
    source = images if labels is None else view_of(model, labelled(labels), image_size=32)
    survey = gates(model, source)
    path = next(iter(survey))
    assert survey[path].by_class is None
    with pytest.raises(DataError, match="no labels to tell classes apart"):
        survey.class_similarity(path)
    with pytest.raises(DataError, match="no labels"):
        survey.leaning(path, 0)
    site = survey.to_json()["sites"][0]
    assert (site["class_similarity"], site["leaning"]) == (None, None)


def test_without_a_channel_gate_nothing_is_said_about_classes(backbone):
    model = ag.graft(backbone, "cbam-spatial", input_size=SIZE)
    survey = gates(model, view_of(model, labelled(LABELS), image_size=32))
    path = next(iter(survey))
    with pytest.raises(DataError, match=f"'{path}' has no channel gate"):
        survey.class_similarity(path)
    assert survey.to_json()["sites"][0]["leaning"] is None


def test_questions_that_make_no_sense_are_answered_with_a_sentence(model):
    survey = gates(model, view_of(model, labelled(LABELS), image_size=32))
    path = next(iter(survey))
    with pytest.raises(GraftError, match=f"no graft was seen at '{path}x': did you mean '{path}'"):
        survey.class_similarity(f"{path}x")
    with pytest.raises(ConfigError, match="no class is called 'gren': did you mean 'green'"):
        survey.leaning(path, "gren")
    for index in (-1, 4):
        with pytest.raises(ConfigError, match=f"the class is {index}: expected 0 to 3"):
            survey.leaning(path, index)
    with pytest.raises(ConfigError, match="k is 0"):
        survey.leaning(path, "red", k=0)
    with pytest.raises(DataError, match="no image is of the class 'grey'"):
        survey.leaning(path, "grey")
    assert survey.get("nowhere") is None
    with pytest.raises(KeyError):
        survey["nowhere"]


# --- the JSON ----------------------------------------------------------------------------------------------------


def test_the_json_has_all_but_the_raw_gates(model):
    survey = gates(model, view_of(model, labelled(LABELS), image_size=32))
    told = json.loads(json.dumps(survey.to_json(), allow_nan=False))
    assert told == survey.to_json()
    assert told.keys() == {"images", "sites"}
    assert told["images"] == 8
    for row, site in zip(told["sites"], survey.values(), strict=True):
        assert row.keys() == {
            *("path", "attention", "depth", "channels", "height", "width"),
            *("parts", "class_similarity", "leaning"),
        }
        assert row["parts"] == {part: statistics.to_json() for part, statistics in site.statistics.items()}


def test_gates_that_are_not_finite_become_none(model, images):
    attention = next(iter(grafts(model).values()))
    attention.gates = lambda x: Gates(channel=torch.full(x.shape[:2], float("nan")))
    told = json.loads(json.dumps(gates(model, images).to_json(), allow_nan=False))
    assert told["sites"][0]["parts"]["channel"]["mean"] is None


# --- the model is left alone -------------------------------------------------------------------------------------


def test_a_model_in_training_stays_so_and_its_statistics_do_not_move(model, images):
    expected = gates(model, images)
    model.train()
    model.get_submodule("block1").eval()
    for parameter in next(iter(grafts(model).values())).parameters():
        parameter.requires_grad_(False)
    before, flags = footprint(model), [p.requires_grad for p in model.parameters()]
    found = gates(model, images)
    assert footprint(model) == before
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(p.grad is None for p in model.parameters())
    assert found.to_json() == expected.to_json()


def test_no_random_number_is_drawn(model, images):
    torch_state, numpy_state = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    gates(model, view_of(model, labelled(LABELS), image_size=32))
    assert torch.equal(torch.random.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


def test_no_graph_is_built(model, images):
    built = []
    model.get_submodule("head").register_forward_hook(lambda module, arguments, y: built.append(y.requires_grad))
    gates(model, images)
    assert built == [False]


@torch.no_grad()
def test_of_a_compiled_model_the_inner_one_runs(model, images):
    compiled = torch.compile(model, backend="eager")
    assert gates(compiled, images).to_json() == gates(model, images).to_json()


@pytest.mark.parametrize("error", [RuntimeError("no\nroom"), KeyboardInterrupt(), InputError("an integer map.")])
def test_an_error_in_the_middle_leaves_nothing_behind(model, images, error):
    calls = []

    def fails(module: nn.Module, arguments: tuple) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise error

    handle = model.get_submodule("head").register_forward_pre_hook(fails)
    model.train()
    before = footprint(model)
    expected = DataError if isinstance(error, RuntimeError) else type(error)
    with pytest.raises(expected) as raised:
        gates(model, images, batch_size=4)
    assert len(calls) == 2
    assert footprint(model) == before
    if expected is DataError:
        assert "does not run on images of 32 x 32 pixels (no room): give images" in str(raised.value)
        assert raised.value.__cause__ is error
    handle.remove()


@pytest.mark.parametrize(
    ("shape", "words"),
    [((3, 1, 1), r"1 x 1 pixels \(.+\): give"), ((1, 32, 32), r"1 channel \(.+\): .* takes 3 channels")],
)
def test_images_on_which_the_network_does_not_run(model, shape, words):
    network = ag.graft(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()), "se", where="1")
    with pytest.raises(DataError, match=f"the model does not run on images of .*{words}"):
        gates(network, torch.randn(2, *shape))


def test_a_model_without_grafts_has_no_gates(backbone, images):
    with pytest.raises(GraftError, match="the model has no grafts"):
        gates(backbone, images)


def test_a_model_that_lost_a_graft_is_refused(model, images):
    model.get_submodule(next(iter(grafts(model))))._forward_hooks.clear()
    with pytest.raises(GraftError, match="not live"):
        gates(model, images)


@pytest.mark.parametrize("options", [{"keep": -1}, {"batch_size": 0}])
def test_numbers_that_make_no_sense_are_refused(model, images, options):
    with pytest.raises(ConfigError, match="expected keep >= 0 and batch_size >= 1"):
        gates(model, images, **options)


# --- real networks and files -------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["timm:resnet18", "torchvision:resnet18"])
def test_a_real_network_and_image_files(spec, tmp_path: Path):
    for i, name in enumerate(("cat", "dog")):
        (tmp_path / name).mkdir()
        noise = np.random.default_rng(i).integers(0, 256, (70, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / name / "0.png")
    network = note_classes_(ag.create_backbone(spec, num_classes=2, pretrained=False), ("cat", "dog"))
    model = stir_grafts_(ag.graft(network, "cbam", input_size=(3, 64, 64)))
    survey = gates(model, view_of(model, tmp_path, image_size=64))
    assert len(survey) == 8
    assert [site.depth for site in survey.values()] == list(range(8))
    assert survey.images == 2
    assert len(survey.leaning(list(survey)[-1], "dog")) == 5

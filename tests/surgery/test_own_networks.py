"""Networks of one's own as backbones: modules, factories, and names of factories in source files."""

import sys
from functools import partial, wraps

import pytest
import torch
from grafting_helpers import image_batch
from own_networks import FunctionalResNet
from torch import nn

import attngraft as ag
from attngraft.backbones import backbone_info, has_pretrained
from attngraft.errors import AttngraftError, BackboneError, GraftError, RunError
from attngraft.surgery import backbone_spec, note_classes_

SIZE = (3, 32, 32)
SOURCE = """
import sibling
from torch import nn

class Net(nn.Module):
    def __init__(self, width, num_classes=10):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.MaxPool2d(2))
        self.fc = nn.Linear(width, num_classes)

    def forward(self, x):
        return self.fc(self.body(x).mean((2, 3)))

def make(num_classes):
    import late_sibling
    return Net(sibling.WIDTH, num_classes)

def fails(n):
    raise ValueError("no luck\\ntoday")

def needs(num_classes, width, depth=1):
    return Net(width, num_classes)

def fails_in_torch(num_classes):
    return nn.Conv2d(3, 4, 3, groups=2)
"""


class Fixed(nn.Module):
    """Takes one size only, and has ten outputs whatever is asked for."""

    def __init__(self, side=16):
        super().__init__()
        self.body, self.fc = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), nn.Linear(4 * (side - 2) ** 2, 10)

    def forward(self, x):
        return self.fc(self.body(x).flatten(1))


class Wide(Fixed):
    def __init__(self, n_classes=10):
        super().__init__()
        self.fc = nn.Linear(self.fc.in_features, n_classes)


def first_argument(count):
    return Wide(count)


def any_argument(*, width=4, **options):
    return Wide(options["num_classes"])


@wraps(needs_width := lambda num_classes, width: Wide(num_classes))
def given_its_width(num_classes):
    return needs_width(num_classes, 8)


@pytest.fixture
def source(tmp_path):
    (tmp_path / "sibling.py").write_text("WIDTH = 8\n")
    (tmp_path / "late_sibling.py").write_text("")
    (tmp_path / "net.py").write_text(SOURCE)
    yield tmp_path / "net.py"
    sys.modules.pop("sibling", None)
    sys.modules.pop("late_sibling", None)


@pytest.mark.parametrize(
    "backbone",
    [
        Fixed(),
        Fixed,
        lambda: Fixed(),
        Wide,
        first_argument,
        any_argument,
        partial(Wide),
        partial(first_argument),
        given_its_width,
    ],
    ids=["module", "class", "no-argument", "named", "first", "keywords", "partial", "partial-of-first", "wrapped"],
)
def test_every_form_makes_a_backbone_with_the_outputs_that_are_asked_for(backbone):
    spec = backbone_spec(backbone)
    assert spec == backbone_spec(backbone)
    model = ag.create_backbone(spec, num_classes=3)
    assert model(image_batch(2, 3, 16, 16)).shape == (2, 3)
    assert backbone_info(model).spec == spec
    assert not has_pretrained(spec)


def test_copies_of_a_module_keep_its_weights_and_get_a_new_head_from_the_seed():
    own = note_classes_(FunctionalResNet(), list("abcd"))
    spec = backbone_spec(own)
    heads = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        model = ag.create_backbone(spec, num_classes=4)
        assert torch.equal(model.stem.weight, own.stem.weight)
        heads.append(model.head.weight)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_a_factory_draws_its_weights_from_the_seed():
    spec = backbone_spec(Wide)
    first, again, other = (torch.manual_seed(seed) and ag.create_backbone(spec).body[0].weight for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_training_the_module_afterwards_does_not_change_the_backbone():
    own = Fixed()
    spec = backbone_spec(own)
    nn.init.zeros_(own.body[0].weight)
    assert ag.create_backbone(spec).body[0].weight.any()
    assert backbone_spec(own) != spec


def test_a_function_in_a_file_is_named_with_its_digest(source):
    spec = backbone_spec(f"{source}:make")
    assert spec.startswith("own:net.py:make@")
    assert ag.create_backbone(spec, num_classes=3)(image_batch(2, *SIZE)).shape == (2, 3)
    assert ag.create_backbone(f"{source}:make", num_classes=5)(image_batch(2, *SIZE)).shape == (2, 5)
    source.write_text(SOURCE + "\n# changed\n")
    assert backbone_spec(f"{source}:make") != spec


def test_names_of_published_backbones_stay_what_they_are():
    for spec in ("timm:resnet18", "torchvision:resnet18", "small-cnn", "resnet20-32:width=8", "runs/cbam-0", "own:x@1"):
        assert backbone_spec(spec) == spec


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("net.py:mak", "has no function 'mak': did you mean 'make'"),
        ("net.py:fails", r"net.py:fails fails \(ValueError: no luck today, net.py line 19\)"),
        ("net.py:needs", r"net.py:needs needs 'width' too.*return needs\(num_classes, width=\.\.\.\)"),
        ("net.py:Net", r"net.py:Net needs 'width' too"),
        ("net.py:fails_in_torch", r"\(ValueError: .*, net.py line 25\)"),
        ("net.py:sibling", "has no function 'sibling'"),
        ("none.py:make", "there is no file"),
    ],
)
def test_what_cannot_be_made_is_refused(source, name, words):
    with pytest.raises(BackboneError, match=words) as caught:
        backbone_spec(f"{source.parent / name.partition(':')[0]}:{name.partition(':')[2]}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("backbone", "words"),
    [
        (3, "of the type int: expected a name, a torch.nn.Module, or a function"),
        (lambda n: n, "returns int: expected a torch.nn.Module"),
        ("no_such_module_here:make", "the module no_such_module_here cannot be imported"),
        (nn.Sequential(nn.Flatten()), "no layer with weights makes the output"),
    ],
)
def test_what_is_no_network_is_refused(backbone, words):
    with pytest.raises(BackboneError, match=words):
        ag.create_backbone(backbone_spec(backbone), num_classes=3)


def test_a_saved_network_is_built_where_its_code_is_known_and_nowhere_else(tmp_path, source):
    spec = backbone_spec(f"{source}:make")
    grown = ag.graft(ag.create_backbone(spec, num_classes=3).eval(), "se", where="stage", input_size=SIZE)
    file = ag.save(grown, tmp_path / "own.safetensors")
    assert torch.equal(ag.load(file)(image_batch(2, *SIZE)), grown(image_batch(2, *SIZE)))
    other = file.with_name("other.safetensors")
    other.write_bytes(file.read_bytes())
    elsewhere = ag.create_backbone(spec, num_classes=3)
    object.__setattr__(backbone_info(elsewhere), "spec", "own:elsewhere.py:make@0123")
    file = ag.save(elsewhere, tmp_path / "elsewhere.safetensors")
    with pytest.raises(BackboneError, match=r"not run because a file names it.*--network elsewhere\.py:make"):
        ag.load(file)
    assert ag.load(file, backbone=ag.create_backbone(spec, num_classes=3)) is not None


@pytest.mark.parametrize("takes", [backbone_spec, ag.create_backbone])
def test_a_file_without_a_function_is_answered_with_those_in_it(source, takes):
    with pytest.raises(
        BackboneError, match=r"name the function or the class.*net.py:Net, .*net.py:make, .*net.py:needs"
    ):
        takes(str(source))
    with pytest.raises(BackboneError, match="there is no file"):
        takes(str(source.with_name("other.py")))
    source.with_name("other.py").write_text("def (")
    with pytest.raises(BackboneError, match="cannot be read as Python"):
        takes(str(source.with_name("other.py")))


class Two(Fixed):
    def forward(self, x, depth, *, scale=1):
        return super().forward(x + depth)


@pytest.mark.parametrize(
    "use",
    [
        lambda: ag.create_backbone(backbone_spec(Two), num_classes=3),
        lambda: ag.find_sites(Two(), input_size=16),
        lambda: ag.predict(Two(), torch.zeros(1, 3, 16, 16), preprocessing={"image_size": 16}),
    ],
    ids=["backbone", "sites", "predict"],
)
def test_a_network_of_two_inputs_is_told_that_images_are_one(use):
    with pytest.raises(
        AttngraftError, match=r"the forward of Two needs 'depth' besides one batch of images: .*wrap"
    ) as caught:
        use()
    assert "size" not in str(caught.value)


@pytest.mark.parametrize("model", [Fixed, first_argument])
def test_what_makes_a_network_is_to_be_called(model):
    with pytest.raises(GraftError, match=rf"expected a torch.nn.Module, as {model.__name__}\(.*call it"):
        ag.find_sites(model)
    with pytest.raises(RunError, match="call what makes one"):
        ag.predict(model, torch.zeros(1, 3, 16, 16))


@pytest.mark.parametrize("was_edited", [False, True])
def test_a_run_of_a_function_is_read_with_the_file_that_it_is_in(tmp_path, source, was_edited, caplog):
    model = ag.create_backbone(backbone_spec(f"{source}:make"), num_classes=3).eval()
    info = backbone_info(model)
    digest = "0123456789ab" if was_edited else info.spec.rpartition("@")[2]
    object.__setattr__(info, "spec", f"own:make@{digest}")
    file = ag.save(model, tmp_path / "own.safetensors")
    assert torch.equal(ag.load(file)(image_batch(2, *SIZE)), model(image_batch(2, *SIZE)))
    assert ("the source of make has changed" in caplog.text) == was_edited

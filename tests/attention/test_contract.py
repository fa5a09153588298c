"""One contract for every registered attention: a new module is one file, and these tests find it."""

import copy
import importlib
import inspect
import json
import pickle
from pathlib import Path

import pytest
import torch
from cases import slow
from pairs import over
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap

import attngraft.attention
from attngraft.attention import (
    ATTENTIONS,
    Attention,
    Gates,
    attention_options,
    attentions,
    create_attention,
)
from attngraft.errors import ConfigError

NAMES = attentions()
INITS = ("identity", "paper")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MAPS = [(2, 9, 7), (1, 8, 8), (2, 1, 5), (1, 1, 1)]  # batch, height, width
HELPERS = {"__init__", "author_weights", "contract", "layers"}

every_name = over(name=NAMES)
every_init = over(init=INITS)
every_dtype = over(dtype=DTYPES)
in_train_and_eval = over(training=[True, False])


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def awakened(name, channels=32, init="identity", **options):
    """A module whose parameters are all random, so that no zero hides a wrong path."""
    module = create_attention(name, channels, init=init, **options)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module


def shapes(module):
    return {key: value.shape for key, value in module.state_dict().items()}


def feature_map(batch=2, channels=32, height=9, width=7, dtype=torch.float32):
    return torch.randn(batch, channels, height, width).to(dtype)


# --- the table ---------------------------------------------------------------------------------------------------


def test_every_file_is_registered_under_its_own_name():
    files = {path.stem for path in Path(attngraft.attention.__file__).parent.glob("*.py")} - HELPERS
    assert files == {name.replace("-", "_") for name in NAMES}


@every_name
def test_registry_key_file_and_class_share_one_name(name):
    build = ATTENTIONS[name].build
    assert build.__name__.lower() == name.replace("-", "")
    assert build.__module__ == f"attngraft.attention.{name.replace('-', '_')}"
    assert ATTENTIONS[name].name == name


@every_name
def test_entry_and_docstring_describe_the_module(name):
    entry = ATTENTIONS[name]
    assert entry.summary
    assert entry.source
    for section in ("Args:", "Shape:", "Raises:", "Source:"):
        assert section in inspect.getdoc(entry.build)
    for option in attention_options(name):
        assert f"{option}:" in inspect.getdoc(entry.build)


def test_the_controls_are_marked():
    assert {name for name in NAMES if ATTENTIONS[name].control} == {"static", "capacity"}


@every_name
def test_default_options_survive_json_and_build_the_same_module(name):
    options = json.loads(json.dumps(attention_options(name)))
    default, explicit = create_attention(name, 32), create_attention(name, 32, **options)
    assert shapes(default) == shapes(explicit)


@every_name
@pytest.mark.parametrize("value", [-1, 0, "nonsense", []])
def test_every_option_refuses_values_that_make_no_sense(name, value):
    for option in attention_options(name):
        with pytest.raises(ConfigError, match=" is "):
            create_attention(name, 32, **{option: value})


# --- errors ------------------------------------------------------------------------------------------------------


def test_unknown_name_says_the_nearest():
    with pytest.raises(ConfigError, match="unknown attention 'cbma': did you mean 'cbam'"):
        create_attention("cbma", 8)
    with pytest.raises(ConfigError, match="did you mean 'cbam'"):
        attention_options("cbma")


def test_unknown_option_says_the_nearest():
    with pytest.raises(ConfigError, match="unknown option 'reducton' for attention 'se': did you mean 'reduction'"):
        create_attention("se", 8, reducton=4)


@every_name
def test_unknown_init_says_the_nearest(name):
    with pytest.raises(ConfigError, match="init is 'identty': did you mean 'identity'"):
        create_attention(name, 8, init="identty")


@every_name
@pytest.mark.parametrize("channels", [0, -3, 2.5, True])
def test_channels_must_be_a_positive_whole_number(name, channels):
    with pytest.raises(ConfigError, match="channels is"):
        create_attention(name, channels)


# --- identity ----------------------------------------------------------------------------------------------------


@every_name
@every_dtype
@over(memory_format=[torch.contiguous_format, torch.channels_last])
@in_train_and_eval
def test_identity_returns_x_bit_for_bit(name, dtype, memory_format, training):
    module = create_attention(name, 32).to(dtype).train(training)
    for shape in MAPS:
        x = feature_map(shape[0], 32, *shape[1:], dtype=dtype).to(memory_format=memory_format)
        assert torch.equal(module(x), x)


@every_name
def test_identity_survives_a_training_forward_that_moves_running_statistics(name):
    module = create_attention(name, 32).train()
    x = feature_map()
    module(x)
    assert torch.equal(module.eval()(x), x)


@every_name
@every_dtype
def test_identity_holds_for_the_smallest_and_the_largest_values(name, dtype):
    info = torch.finfo(dtype)
    x = feature_map(dtype=dtype)
    x[0, :, 0] = info.smallest_normal / 8
    x[1, :, 1] = 1e4  # its square overflows fp16
    assert torch.equal(create_attention(name, 32).to(dtype)(x), x)


@every_name
@every_dtype
@in_train_and_eval
def test_gradients_reach_the_attention_from_the_first_step(name, dtype, training):
    module = create_attention(name, 32).to(dtype).train(training)
    x = feature_map(dtype=dtype).requires_grad_()
    module(x).backward(torch.randn_like(x))
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    assert any(gradient.count_nonzero() for gradient in gradients)
    assert all(gradient.isfinite().all() for gradient in [*gradients, x.grad])


@every_name
def test_a_few_steps_leave_the_identity(name):
    module = create_attention(name, 32)
    x, target = feature_map(), feature_map()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.mse_loss(module(x), target).backward()
        optimizer.step()
    assert not torch.equal(module.eval()(x), x)


# --- gates -------------------------------------------------------------------------------------------------------


@every_name
@every_init
def test_forward_is_gates_then_apply(name, init):
    module, x = awakened(name, init=init).eval(), feature_map()
    gates = module.gates(x)
    assert isinstance(module, Attention)
    assert torch.equal(module(x), module.apply_gates(x, gates))
    assert not torch.equal(module(x), x)


@every_name
def test_gates_have_the_documented_shapes(name):
    gates = awakened(name).gates(feature_map(2, 32, 9, 7))
    allowed = {
        "channel": {(2, 32)},
        "spatial": {(2, 9, 7)},
        "rows": {(2, 32, 9), (2, 1, 9)},
        "columns": {(2, 32, 7), (2, 1, 7)},
        "full": {(2, 32, 9, 7)},
        "offset": {(2, 32, 9, 7), (2, 32, 1, 1)},
    }
    present = {part: getattr(gates, part) for part in allowed if getattr(gates, part) is not None}
    assert present
    for part, value in present.items():
        assert tuple(value.shape) in allowed[part]


@every_name
@every_init
def test_without_parts_x_stays_as_it_is(name, init):
    x = feature_map()
    assert torch.equal(create_attention(name, 32, init=init).apply_gates(x, Gates()), x)


# --- shapes, dtypes, layouts -------------------------------------------------------------------------------------


@every_name
@every_init
@over(channels=[1, 3, 30])
def test_odd_widths_and_sizes_give_finite_outputs_and_gradients(name, init, channels):
    module = awakened(name, channels, init).train()
    for batch, height, width in MAPS:
        x = feature_map(batch, channels, height, width).requires_grad_()
        y = module(x)
        y.sum().backward()
        assert y.shape == x.shape
        assert y.isfinite().all()
        assert all(tensor.grad.isfinite().all() for tensor in [x, *module.parameters()])


@every_name
@every_init
def test_constant_input_gives_finite_gradients(name, init):
    module = awakened(name, init=init)
    x = torch.zeros(2, 32, 5, 5, requires_grad=True)
    module(x).sum().backward()
    assert all(tensor.grad.isfinite().all() for tensor in [x, *module.parameters()])


@every_name
@every_init
@over(dtype=[torch.bfloat16, torch.float16])
def test_half_modules_keep_the_dtype_and_stay_near_fp32(name, init, dtype):
    module, x = awakened(name, init=init).eval(), feature_map(dtype=dtype)
    expected = module(x.float())
    y = module.to(dtype)(x)
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), expected, rtol=0.1, atol=0.1)


@every_name
@over(dtype=[torch.float32, torch.bfloat16])
@in_train_and_eval
def test_autocast_keeps_the_dtype_of_x_and_trains_fp32_parameters(name, dtype, training):
    module, x = awakened(name).train(training), feature_map(dtype=dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = module(x)
        fresh = create_attention(name, 32).train(training)
        assert torch.equal(fresh(x), x)
    y.float().sum().backward()
    assert y.dtype == dtype
    assert all(parameter.grad.dtype == torch.float32 for parameter in module.parameters())


@every_name
@every_init
def test_channels_last_is_kept_and_gives_the_same_values(name, init):
    module, x = awakened(name, init=init).eval(), feature_map()
    y = module(x.contiguous(memory_format=torch.channels_last))
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert module(x).is_contiguous()
    torch.testing.assert_close(y, module(x), rtol=1e-4, atol=1e-4)


@over(name=[name for name in NAMES if ATTENTIONS[name].build.any_rank])
@every_init
@over(shape=[(2, 32, 12), (2, 32, 2, 3, 2), (1, 32, 1)])
def test_any_rank_equals_the_same_positions_as_a_map(name, init, shape):
    module, x = awakened(name, init=init).train(), torch.randn(shape)
    flat = module(x.flatten(2).unsqueeze(3)).reshape(shape)
    torch.testing.assert_close(module(x), flat, rtol=1e-4, atol=1e-4)
    assert torch.equal(create_attention(name, 32)(x), x)


def test_modules_of_channels_and_positions_take_any_rank():
    known = {"se", "ese", "eca", "gct", "srm", "cbam-channel", "static", "global-context", "gc", "capacity", "simam"}
    assert {name for name in NAMES if ATTENTIONS[name].build.any_rank} == known


# --- life as an nn.Module ----------------------------------------------------------------------------------------


@every_name
@every_init
def test_copies_pickles_and_state_dicts_compute_the_same(name, init):
    module, x = awakened(name, init=init).eval(), feature_map()
    restored = create_attention(name, 32, init=init).eval()
    restored.load_state_dict(module.state_dict())
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), restored):
        assert torch.equal(twin(x), module(x))


@every_name
@every_init
def test_the_global_seed_decides_the_parameters(name, init):
    states = []
    for _ in range(2):
        torch.manual_seed(7)
        states.append(create_attention(name, 32, init=init).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@every_name
def test_second_derivatives_exist_and_are_finite(name):
    module, x = awakened(name).eval(), feature_map(1, 32, 3, 3).requires_grad_()
    (gradient,) = torch.autograd.grad(module(x).square().sum(), x, create_graph=True)
    gradient.square().sum().backward()
    assert x.grad.isfinite().all()


@every_name
def test_empty_batch_gives_an_empty_batch(name):
    assert awakened(name).eval()(feature_map(0)).shape == (0, 32, 9, 7)


@every_name
def test_input_is_not_modified(name):
    x = feature_map()
    before = x.clone()
    awakened(name)(x)
    assert torch.equal(x, before)


@every_name
def test_sync_batchnorm_conversion_keeps_names_and_values(name):
    module = awakened(name).eval()
    x, expected = feature_map(), module.state_dict()
    y = module(x)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(module)
    assert converted.state_dict().keys() == expected.keys()
    assert torch.equal(converted(x), y)
    assert not any(type(layer).__name__ == "GateBatchNorm" for layer in converted.modules())


def differs_in_training(name):
    return any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in create_attention(name, 8).modules())


COMPILED = [(name, False) for name in NAMES]
COMPILED += [(name, True) if differs_in_training(name) else slow(name, True) for name in NAMES]


@pytest.mark.parametrize(("name", "training"), COMPILED)
def test_compiles_as_one_graph(name, training):
    torch.compiler.reset()
    module, x = awakened(name).train(training), feature_map()
    twin = copy.deepcopy(module)
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), twin(x))


@every_name
def test_exports_with_dynamic_batch_height_and_width(name):
    module, x = awakened(name).eval(), feature_map()
    dynamic = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    exported = torch.export.export(module, (x,), dynamic_shapes=(dynamic,)).module()
    other = feature_map(3, 32, 6, 10)
    torch.testing.assert_close(exported(other), module(other))


@every_name
def test_stacked_modules_run_under_vmap(name):
    modules, x = [awakened(name, 8).eval() for _ in range(2)], feature_map(channels=8)
    parameters, buffers = stack_module_state(modules)
    together = vmap(lambda p, b: functional_call(modules[0], (p, b), (x,)))(parameters, buffers)
    torch.testing.assert_close(together, torch.stack([module(x) for module in modules]))


@every_name
def test_gradients_of_each_image_are_computed_by_vmap(name):
    module, x = awakened(name).eval(), feature_map()
    parameters = {key: value.detach() for key, value in module.named_parameters()}

    def loss(p, image):
        return functional_call(module, p, (image[None],)).square().mean()

    per_image = vmap(grad(loss), in_dims=(None, 0))(parameters, x)
    loss(dict(module.named_parameters()), x[1]).backward()
    for key, parameter in module.named_parameters():
        torch.testing.assert_close(per_image[key][1], parameter.grad, rtol=1e-3, atol=1e-6)


@every_name
@pytest.mark.filterwarnings("ignore")  # the exporter's own, which is deprecated
def test_the_torchscript_onnx_exporter_keeps_other_batches_heights_and_widths(name, tmp_path):
    reference = pytest.importorskip("onnx.reference")
    module, path = awakened(name, 8).eval(), tmp_path / "module.onnx"
    axes = {"x": {0: "batch", 2: "height", 3: "width"}}
    torch.onnx.export(
        module, (feature_map(1, 8),), path, dynamo=False, verbose=False, input_names=["x"], dynamic_axes=axes
    )
    other = feature_map(3, 8, 6, 10)
    (found,) = reference.ReferenceEvaluator(str(path)).run(None, {"x": other.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), module(other).detach(), rtol=1e-4, atol=1e-5)


def test_package_lists_only_names_that_exist():
    package = importlib.import_module("attngraft.attention")
    assert all(hasattr(package, name) for name in package.__all__)

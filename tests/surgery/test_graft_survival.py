"""What other tools do to a grown network: copies and exports keep the attention, rebuilding it is noticed.

The grafts are stirred first. An attention that is still the identity could be lost without a trace.
"""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
from grafting_helpers import image_batch, settle_, stir_grafts_
from torch import nn

import attngraft as ag
from attngraft.errors import GraftError
from attngraft.surgery import check_live, graft_plan

SIZE = (3, 32, 32)


@pytest.fixture(scope="module")
def plain():
    return settle_(ag.create_backbone("timm:test_resnet", num_classes=5, pretrained=False)).eval()


@pytest.fixture(scope="module")
def pristine(plain):
    return stir_grafts_(ag.graft(plain, "cbam", input_size=SIZE))


@pytest.fixture
def grown(pristine):
    return copy.deepcopy(pristine)


@pytest.fixture(scope="module")
def x():
    return image_batch(3, *SIZE)


@pytest.fixture(scope="module")
def logits(plain, pristine, x):
    with torch.no_grad():
        expected = pristine(x)
        assert (expected - plain(x)).abs().max() > 1e-3
    return expected


@torch.no_grad()
def assert_same(model, x, expected, tolerance=1e-5):
    torch.testing.assert_close(model(x), expected, rtol=tolerance, atol=tolerance)


def test_deepcopy_keeps_the_attention_and_shares_nothing(grown, x, logits):
    twin = copy.deepcopy(grown)
    check_live(twin)
    assert graft_plan(twin) == graft_plan(grown)
    for parameter in grown.parameters():
        parameter.data.zero_()
    with torch.no_grad():
        assert torch.equal(twin(x), logits)


def test_pickle_keeps_the_attention(grown, x, logits):
    # users pickle models, for example to send them to worker processes; the library itself never does
    twin = pickle.loads(pickle.dumps(grown))
    check_live(twin)
    with torch.no_grad():
        assert torch.equal(twin(x), logits)


def test_compile_in_one_graph_keeps_the_attention(grown, x, logits):
    compiled = torch.compile(grown, fullgraph=True, backend="eager")
    assert_same(compiled, x, logits)
    check_live(compiled)


def test_compile_in_train_mode_has_the_same_gradients(grown, x):
    eager = copy.deepcopy(grown).train()
    compiled = torch.compile(grown.train(), fullgraph=True, backend="eager")
    eager(x).square().mean().backward()
    compiled(x).square().mean().backward()
    expected = {name: p.grad for name, p in eager.named_parameters()}
    assert any(".graft." in name for name in expected)
    for name, parameter in grown.named_parameters():
        # Batch statistics of three images amplify rounding: eager gradients are 1e-4 from those in fp64 themselves.
        allowed = 4e-4 * float(expected[name].abs().max())
        torch.testing.assert_close(parameter.grad, expected[name], rtol=0, atol=allowed, msg=name)


@pytest.mark.slow
def test_inductor_keeps_the_attention(grown, x, logits):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own
        assert_same(torch.compile(grown, fullgraph=True), x, logits, 1e-4)


def exported_program(model, x):
    batch = torch.export.Dim("batch", min=1, max=64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own deprecations
        return torch.export.export(model, (x,), dynamic_shapes={"x": {0: batch}})


def test_export_with_a_dynamic_batch_keeps_the_attention(grown, x, logits):
    program = exported_program(grown, x).module()
    for count in (1, 2, 3):
        assert_same(program, x[:count], logits[:count])
    with torch.no_grad():
        assert program(image_batch(7, *SIZE)).shape == (7, 5)


def test_symbolic_trace_keeps_the_attention(grown, x, logits):
    traced = torch.fx.symbolic_trace(grown)
    assert_same(traced, x, logits)
    check_live(traced)
    assert graft_plan(traced) == graft_plan(grown)


@pytest.mark.parametrize("where", ["residual", "stage"])
def test_symbolic_trace_sees_grafts_on_layers_and_on_blocks(where, x):
    grown = stir_grafts_(
        ag.graft(settle_(ag.create_backbone("torchvision:resnet18", pretrained=False)).eval(), "se", where=where)
    )
    with torch.no_grad():
        expected = grown(x)
    traced = torch.fx.symbolic_trace(grown)
    assert_same(traced, x, expected)
    check_live(traced, graft_plan(grown))
    assert_same(ag.reattach_(traced), x, expected)


def test_torchvisions_feature_extractor_keeps_the_attention(x):
    from torchvision.models.feature_extraction import create_feature_extractor

    grown = stir_grafts_(
        ag.graft(settle_(ag.create_backbone("torchvision:resnet18", pretrained=False)).eval(), "cbam", where="stage")
    )
    seen = []
    grown.layer3[0].conv1.register_forward_hook(lambda module, args, output: seen.append(output))
    with torch.no_grad():
        grown(x)
    extractor = create_feature_extractor(grown, ["layer3.0.conv1"])
    assert_same(lambda x: extractor(x)["layer3.0.conv1"], x, seen[0])


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["cbam", "coord", "simam", "triplet"])
def test_onnx_export_with_dynamic_shapes_keeps_the_attention(plain, attention, tmp_path):
    pytest.importorskip("onnxscript")
    reference = pytest.importorskip("onnx.reference")
    grown = stir_grafts_(ag.graft(plain, attention, input_size=SIZE))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        program = torch.onnx.export(
            grown,
            (image_batch(2, *SIZE),),
            dynamo=True,
            verbose=False,
            dynamic_shapes={"x": {0: torch.export.Dim("b"), 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}},
        )
        program.save(tmp_path / "grown.onnx")
        session = reference.ReferenceEvaluator(str(tmp_path / "grown.onnx"))
    for shape in ((1, *SIZE), (3, 3, 48, 40)):
        x = image_batch(*shape)
        (found,) = session.run(None, {"x": x.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(found), grown(x), rtol=1e-3, atol=1e-4)


def test_sync_batchnorm_drops_the_hooks_which_is_noticed_and_healed(grown, x, logits):
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(grown)
    assert ag.grafts(converted) == {}
    with pytest.raises(GraftError, match=r"grafts are not live any more \(.*\): .*attngraft.reattach_"):
        check_live(converted)
    assert ag.reattach_(converted) is converted
    check_live(converted)
    assert_same(converted, x, logits, 1e-4)


def test_reattaching_twice_does_not_run_the_attention_twice(grown, x, logits):
    ag.reattach_(ag.reattach_(nn.SyncBatchNorm.convert_sync_batchnorm(grown)))
    assert_same(grown, x, logits, 1e-4)


def test_fusing_one_convolution_with_its_host_is_noticed(plain):
    grown = ag.graft(plain, "cbam", where="layer1.0.bn1", input_size=SIZE)
    block = grown.get_submodule("layer1.0")
    block.conv1 = nn.utils.fusion.fuse_conv_bn_eval(block.conv1, block.bn1)
    block.bn1 = nn.Identity()
    for call in (check_live, ag.reattach_):
        with pytest.raises(GraftError, match=r"1 of the grafts is not live any more \(layer1\.0\.bn1\)"):
            call(grown)


def test_fx_fusing_drops_the_grafts_which_the_plan_tells(x):
    from torch.fx.experimental.optimization import fuse

    grown = stir_grafts_(
        ag.graft(settle_(ag.create_backbone("torchvision:resnet18", pretrained=False)).eval(), "se")
    ).eval()
    fused = fuse(grown)
    assert ag.grafts(fused) == {}
    for plan in (None, graft_plan(grown)):
        with pytest.raises(GraftError, match="8 of the grafts are not live"):
            check_live(fused, plan)


@pytest.mark.filterwarnings("ignore")  # PyTorch's own: this kind of quantisation is deprecated
@pytest.mark.parametrize("wrapped", [False, True])
def test_fx_quantisation_drops_the_grafts_which_the_graph_tells(grown, x, wrapped):
    from torch.ao.quantization import get_default_qconfig_mapping, quantize_fx

    model, prefix = (nn.Sequential(grown), "0.") if wrapped else (grown, "")
    prepared = quantize_fx.prepare_fx(model, get_default_qconfig_mapping(), (x,))
    assert [site.path for site in graft_plan(prepared).sites] == [prefix + s.path for s in graft_plan(grown).sites]
    prepared(x)
    for graph in (copy.deepcopy(prepared), quantize_fx.convert_fx(prepared)):
        with pytest.raises(GraftError, match="grafts are not live any more"):
            check_live(graph)


def test_a_traced_plain_network_has_no_plan(plain, grown):
    for model in (plain, ag.ungraft(grown)):
        traced = torch.fx.symbolic_trace(model)
        assert graft_plan(traced) is None
        check_live(traced)


def test_a_lost_graft_cannot_be_saved(grown, tmp_path):
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(grown)
    with pytest.raises(GraftError, match="not live"):
        ag.save(converted, tmp_path / "model.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_removed_child_is_noticed(grown):
    path = next(iter(ag.grafts(grown)))
    del grown.get_submodule(path).graft
    with pytest.raises(GraftError, match="1 of the grafts is not live"):
        check_live(grown)


def test_a_wrapped_network_is_still_live(grown, x, logits):
    wrapped = nn.Sequential(grown, nn.Identity())
    check_live(wrapped)
    assert_same(wrapped, x, logits)


def test_freezing_and_moving_keep_the_attention(grown, x, logits):
    moved = grown.requires_grad_(False).to(torch.float64).to(torch.float32).to(memory_format=torch.channels_last)
    check_live(moved)
    assert_same(moved, x, logits)

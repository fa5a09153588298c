"""A grown network computes bit for bit what its backbone computes, until it is trained."""

from __future__ import annotations

import contextlib

import pytest
from cases import slow
from grafting_helpers import assert_same_function, image_batch, outcome, settle_, stir_grafts_

import attngraft as ag
from attngraft.errors import GraftError

FAST_PAIRS = [
    ("torchvision:resnet18", "cbam"),
    ("torchvision:mobilenet_v3_small", "se"),
    slow("torchvision:mobilenet_v3_small", "simam"),
    slow("torchvision:shufflenet_v2_x0_5", "coord"),
    ("torchvision:squeezenet1_1", "cbam"),
    ("timm:test_convnext", "cbam"),
    ("timm:test_byobnet", "bam"),
    slow("timm:seresnet18", "eca"),
    ("small-cnn", "scse"),
]

SLOW_BACKBONES = [
    *(
        f"torchvision:{name}"
        for name in (
            "resnet50", "vgg16", "vgg11_bn", "mobilenet_v2", "mobilenet_v3_large", "efficientnet_b0",
            "efficientnet_v2_s", "convnext_tiny", "regnet_y_400mf", "densenet121", "inception_v3", "googlenet",
            "shufflenet_v2_x1_0", "squeezenet1_0", "mnasnet0_5", "resnext50_32x4d", "alexnet", "resnet34",
            "wide_resnet50_2", "vgg13", "densenet169", "regnet_x_400mf", "efficientnet_b1", "shufflenet_v2_x0_5",
            "mobilenet_v3_small", "mnasnet1_0", "swin_t", "swin_v2_t", "maxvit_t",
        )
    ),
    *(
        f"timm:{name}"
        for name in (
            "seresnet50", "resnest14d", "cspdarknet53", "cspresnet50", "cs3darknet_s", "ghostnet_100",
            "ghostnetv2_100", "repghostnet_050", "repvgg_a0", "dm_nfnet_f0", "eca_nfnet_l0", "nf_resnet26", "dpn48b",
            "xception41", "legacy_xception", "hrnet_w18_small", "dla34", "dla46_c", "ese_vovnet19b_dw", "vovnet39a",
            "tresnet_m", "mobilenetv4_conv_small", "efficientnetv2_rw_t", "tf_efficientnetv2_b0",
            "tf_efficientnet_lite0", "convnextv2_atto", "poolformer_s12", "poolformerv2_s12", "rexnet_100",
            "skresnet18", "res2net50_14w_8s", "edgenext_xx_small", "mobilenetv3_small_050", "regnetx_002",
            "regnety_002", "resnetv2_50", "resnetblur50", "inception_v4", "inception_resnet_v2", "selecsls42b",
            "mixnet_s", "gernet_s", "mobileone_s0", "fastvit_t8", "hgnetv2_b0", "repvit_m0_9", "starnet_s1",
            "rdnet_tiny", "convmixer_768_32", "inception_next_atto", "visformer_tiny", "ecaresnet26t", "resnet18",
            "resnet26", "resnet14t", "convnext_atto", "mobilenetv4_hybrid_medium", "regnetz_b16", "hardcorenas_a",
            "tinynet_e", "fbnetc_100", "spnasnet_100", "semnasnet_075", "lcnet_050", "mambaout_femto", "caformer_s18",
            "convformer_s18", "efficientvit_b0", "pvt_v2_b0", "mobilevit_xxs", "mobilevitv2_050", "focalnet_tiny_srf",
            "davit_tiny", "gcresnet33ts", "nextvit_small", "resnetv2_50d_gn", "resnetrs50", "seresnet18", "resnext26ts",
            "seresnext26ts", "eca_resnext26ts", "resnet33ts", "resnet32ts", "skresnet34", "mixnet_m", "mobilenetv2_050",
            "mobilenetv3_large_100", "mobilenetv4_conv_medium", "efficientnet_b0", "efficientnet_lite0",
            "tf_mixnet_s", "tf_mobilenetv3_small_minimal_100", "regnetx_004", "regnety_004", "hgnet_tiny", "repvgg_b0",
            "mobileone_s1", "fastvit_sa12", "ghostnet_050", "repghostnet_100", "starnet_s2", "edgenext_x_small",
            "convnextv2_femto", "poolformer_s24", "test_resnet", "test_efficientnet", "test_mambaout", "res2next50",
            "vgg13_bn", "dla60", "darknet53", "nfnet_l0", "selecsls60", "coatnet_nano_rw_224",
            "swin_tiny_patch4_window7_224", "efficientformer_l1", "efficientformerv2_s0", "efficientvit_m0",
            "nest_tiny", "gcvit_xxtiny", "twins_svt_small", "maxvit_rmlp_pico_rw_256", "maxxvit_rmlp_nano_rw_256",
            "botnet26t_256", "halonet26t", "lambda_resnet26t", "bat_resnext26ts", "eca_botnext26ts_256",
        )
    ),
]  # fmt: skip
SIDE = {
    **dict.fromkeys(("timm:inception_v4", "timm:inception_resnet_v2", "torchvision:inception_v3"), 128),
    **{
        f"timm:{name}": 224
        for name in (
            "visformer_tiny", "coatnet_nano_rw_224", "swin_tiny_patch4_window7_224", "efficientformer_l1",
            "efficientformerv2_s0", "efficientvit_m0", "nest_tiny", "gcvit_xxtiny", "twins_svt_small",
        )
    },
    **{
        f"timm:{name}": 256
        for name in (
            "maxvit_rmlp_pico_rw_256", "maxxvit_rmlp_nano_rw_256", "botnet26t_256", "halonet26t", "lambda_resnet26t",
            "bat_resnext26ts", "eca_botnext26ts_256",
        )
    },
    **{"torchvision:swin_t": 224, "torchvision:swin_v2_t": 256, "torchvision:maxvit_t": 224},
}  # fmt: skip


@pytest.mark.parametrize(("spec", "attention"), FAST_PAIRS)
def test_the_grown_network_equals_its_backbone_bit_for_bit(spec, attention):
    backbone = settle_(ag.create_backbone(spec, num_classes=7, pretrained=False))
    grown = ag.graft(backbone, attention, input_size=(3, 64, 64))
    for train in (False, True):
        assert_same_function(backbone, grown, image_batch(), train=train)


@pytest.mark.parametrize("attention", ag.attentions())
def test_every_attention_starts_as_the_identity_and_then_matters(attention):
    backbone = settle_(ag.create_backbone("small-cnn"))
    grown = ag.graft(backbone, attention, input_size=(3, 32, 32))
    x = image_batch(2, 3, 32, 32)
    for train in (False, True):
        assert_same_function(backbone, grown, x, train=train)
    stirred, _ = outcome(stir_grafts_(grown), x, train=False)
    assert not stirred.equal(outcome(backbone, x, train=False)[0])


@pytest.mark.slow
@pytest.mark.parametrize("where", ["auto", "stage", "pool"])
@pytest.mark.parametrize("spec", SLOW_BACKBONES)
def test_identity_across_the_families_of_timm_and_torchvision(spec, where):
    side = SIDE.get(spec, 96)
    size = (3, side, side)
    backbone = settle_(ag.create_backbone(spec, num_classes=7, pretrained=False))
    # "pool" may honestly find nothing; the two others must always find a place
    plan = None
    with contextlib.suppress(*[GraftError] if where == "pool" else []):
        plan = ag.plan_graft(backbone, "cbam", where=where, input_size=size)
    if plan is None:
        pytest.skip("no pooling and no downsampling with a host before it")
    x = image_batch(2, *size)
    for attention in ("cbam", "global-context"):
        grown = ag.graft(backbone, attention, where=where, input_size=size)
        assert set(ag.grafts(grown)) == {site.path for site in plan.sites}
        for train in (False, True):
            assert_same_function(backbone, grown, x, train=train)
    assert not outcome(stir_grafts_(grown), x, train=False)[0].equal(outcome(backbone, x, train=False)[0])

"""One small network of nearly every family of timm."""

from __future__ import annotations

import timm
from torch import nn

from benchmarks.coverage.architectures.net import Net, image

__all__ = ["NETS"]

SIDES = {
    # Convolutional
    "legacy_seresnet18": 96,
    "ecaresnet26t": 96,
    "skresnet18": 96,
    "resnest14d": 96,
    "res2net50_26w_4s": 96,
    "resnetv2_50x1_bit": 96,
    "seresnext26d_32x4d": 96,
    "gcresnet33ts": 96,
    "gernet_s": 96,
    "dpn68": 96,
    "dla34": 96,
    "dla46x_c": 96,
    "cspresnet50": 96,
    "cspdarknet53": 96,
    "darknet53": 96,
    "ese_vovnet19b_dw": 96,
    "selecsls42": 96,
    "tresnet_m": 96,
    "hrnet_w18_small": 96,
    "repvgg_a0": 96,
    "mobileone_s0": 96,
    "nf_regnet_b0": 96,
    "nfnet_l0": 96,
    "eca_nfnet_l0": 96,
    "xception41": 128,
    "legacy_xception": 128,
    "inception_resnet_v2": 299,
    "regnetz_005": 96,
    "hgnetv2_b0": 96,
    "rdnet_tiny": 96,
    # Mobile
    "mobilenetv4_conv_small": 96,
    "mobilenetv4_hybrid_medium": 128,
    "tf_mobilenetv3_small_minimal_100": 96,
    "tf_efficientnetv2_b0": 96,
    "ghostnet_100": 96,
    "ghostnetv2_100": 96,
    "mixnet_s": 96,
    # ConvNeXt-like
    "convnext_atto": 96,
    "convnextv2_atto": 96,
    "edgenext_xx_small": 96,
    # With attention
    "deit_tiny_patch16_224": 224,
    "crossvit_tiny_240": 240,
    "xcit_nano_12_p16_224": 224,
    "pit_ti_224": 224,
    "visformer_tiny": 224,
    "levit_128s": 224,
    "poolformer_s12": 96,
    "caformer_s18": 96,
    "coatnet_nano_rw_224": 224,
    "maxvit_pico_rw_256": 256,
    "mobilevit_xxs": 128,
    "mobilevitv2_050": 128,
    "efficientformer_l1": 224,
    "efficientvit_b0": 96,
    "twins_pcpvt_small": 224,
    "pvt_v2_b0": 96,
    "nest_tiny": 224,
    "swinv2_cr_tiny_ns_224": 224,
    # Without either
    "mixer_s32_224": 224,
    "sequencer2d_s": 224,
}
"""Side of the input by model."""
TORCHSCRIPT_ONLY = {"nest_tiny"}
"""Those that the other exporter cannot convert."""


def _net(name: str, side: int) -> Net:
    def build() -> nn.Module:
        return timm.create_model(name, pretrained=False)

    exporters = ("torchscript",) if name in TORCHSCRIPT_ONLY else ("torchscript", "dynamo")
    return Net(name, "timm", build, image(side), dynamic=True, exporters=exporters)


NETS = [_net(name, side) for name, side in SIDES.items()]

"""Ops of com.microsoft: what onnxruntime's optimizers fuse, and what its exporters leave."""

from __future__ import annotations

from onnxpfp.channels.context import NodeContext, UnlabelledError
from onnxpfp.channels.facts import Bias, Deciding
from onnxpfp.channels.mac_terms import convolution_terms
from onnxpfp.channels.ops.elementwise import broadcast
from onnxpfp.channels.ops.joining import pad
from onnxpfp.channels.registry import Rules

__all__ = ["RULES"]

RULES = Rules()

RULES.add("com.microsoft:Pad")(pad)


@RULES.add(*(f"com.microsoft:{op}" for op in ("BiasGelu", "FastGelu", "GatedAdd", "SampleOp", "ScaledSiLU")))
def fused_elementwise(n: NodeContext) -> None:
    """BiasGelu, FastGelu, GatedAdd, SampleOp, ScaledSiLU: all axes pass; what broadcasts goes along."""
    operands = [n.axes(i) for i in range(len(n.node.input)) if n.has(i)]
    n.set(broadcast(n, operands, n.out_shape()))


@RULES.add("com.microsoft:SkipLayerNormalization", "com.microsoft:SkipSimplifiedLayerNormalization")
def skip_layer_normalization(n: NodeContext) -> None:
    """SkipLayerNormalization, SkipSimplifiedLayerNormalization: the last axis is averaged over, the others pass."""
    operands = [n.axes(i) for i in range(len(n.node.input)) if n.has(i)]
    out = broadcast(n, operands, n.out_shape())
    for axes in operands:
        n.fix(axes[-1], "normalizes over it")
    n.set(out)
    for position in range(1, len(n.outputs)):
        if n.node.output[position] and n.out_shapes[position] is not None:
            n.set((*out[:-1], n.zeros(n.out_shape(position)[-1])), position)


@RULES.add("com.microsoft:CDist")
def cdist(n: NodeContext) -> None:
    """CDist: rows of both operands pass, the coordinates stay."""
    a, b = n.axes(0), n.axes(1)
    for labels in (a[1], b[1]):
        n.fix(labels, "measures distances in it")
    n.set((a[0], b[0]))


@RULES.add("com.microsoft:GridSample", "com.microsoft:CropAndResize")
def sample(n: NodeContext) -> None:
    """GridSample, CropAndResize: channels pass, what is sampled and where stays."""
    x, shape = n.axes(0), n.out_shape()
    for axis, labels in enumerate(x):
        if axis != 1:
            n.fix(labels, "samples it")
    for position in range(1, len(n.node.input)):
        for labels in n.axes(position):
            n.fix(labels, "samples by it")
    n.set((n.zeros(shape[0]), x[1], *(n.zeros(size) for size in shape[2:])))


@RULES.add("com.microsoft:MaxpoolWithMask")
def masked_pool(n: NodeContext) -> None:
    """MaxpoolWithMask: channels pass, the mask and the spatial axes stay."""
    x, mask = n.axes(0), n.axes(1)
    for labels in (*x[2:], *mask):
        n.fix(labels, "pools over it")
    if mask[1].size > 1:
        n.fix(x[1], "has a mask per channel")
    n.set((*x[:2], *(n.zeros(size) for size in n.out_shape()[2:])))


@RULES.add("com.microsoft:ExpandDims")
def expand_dims(n: NodeContext) -> None:
    """ExpandDims: an axis of length 1 comes in, the others pass."""
    x, axis = list(n.axes(0)), n.numbers(1)
    if axis is None:
        raise UnlabelledError(n.title)
    position = int(axis.ravel()[0])
    x.insert(position if position >= 0 else position + len(x) + 1, n.zeros(1))
    n.set(x)


@RULES.add("com.microsoft:Inverse", "com.microsoft:Trilu")
def matrices(n: NodeContext) -> None:
    """Inverse, Trilu: rows and columns stay, a stack of matrices passes."""
    x = n.axes(0)
    for labels in x[-2:]:
        n.fix(labels, "takes its matrices by their places")
    n.set(x)


@RULES.add("com.microsoft:UnfoldTensor")
def unfold(n: NodeContext) -> None:
    """UnfoldTensor: windows slide over one axis, which stays; the others pass."""
    x, shape = n.axes(0), n.out_shape()
    axis = n.integer("dim", -1) % len(x)
    n.fix(x[axis], "slides over it")
    n.set((*x[:axis], n.zeros(shape[axis]), *x[axis + 1 :], n.zeros(shape[-1])))


def _stay(why: str, *ops: str) -> None:
    RULES.stay(why, *(f"com.microsoft:{op}" for op in ops))


_stay(
    "searches for text with a network of its own in a subgraph",
    *("BeamSearch", "GreedySearch", "Sampling", "WhisperBeamSearch"),
)
_stay(
    "works on tokens or on text",
    *("BifurcationDetector", "MurmurHash3", "NGramHashMapping", "NGramRepeatBlock", "Tokenizer"),
    *("VarlenNGramHashMapping", "WordConvEmbedding"),
)
_stay(
    "normalizes over it",
    *("BranchwiseRMSNorm", "EmbedLayerNormalization", "EngramGate", "GatedRMSNorm"),
    *("MatMulNBitsMlp", "MatMulNBitsQkv", "QEmbedLayerNormalization"),
)
_stay("mixes the streams of a hyper-connection", "HyperConnectionPostMix", "HyperConnectionPreMix")
_stay("transforms it", "Irfft", "Rfft")
_stay("compares all its numbers", "DynamicTimeWarping", "IsAllFinite", "Unique")
_stay("counts up, and each number is the place it stands at", "Range")
_stay("hands it to the driver of one device", "EPContext", "Snpe")
_stay("pads it by numbers that are computed", "ConvTransposeWithDynamicPads")
_stay("looks up indices of it at run time", "GatherND", "GatherBlockQuantized", "RelativePositionBias")
_stay("chooses for every token the experts that see it", "MoE", "QMoE")
_stay(
    "packs the tokens of all samples", "PackedAttention", "PackedMultiHeadAttention", "RemovePadding", "RestorePadding"
)
_stay("turns it in pairs by tables of several sections", "GemmaRotaryEmbedding", "MRotaryEmbedding")
_stay("adds positions that it computes head by head", "GatedRelativePositionBias")
_stay(
    "packs its weight in blocks that cross rows, or scales it by blocks of its own",
    *("DequantizeBFP", "GemmFloat8", "MatMulBlockQuantizedFp4Weight", "MatMulBlockQuantizedFp8Weight"),
    *("MatMulBnb4", "MatMulFpQ4", "QuantizeBFP"),
)
_stay("quantizes what it computes inside", "DynamicQuantizeLSTM")
_stay(
    "wants its numbers in the order of one device",
    *("DequantizeWithOrder", "QOrderedAttention", "QOrderedGelu", "QOrderedLayerNormalization"),
    *("QOrderedLongformerAttention", "QOrderedMatMul", "QuantizeWithOrder"),
)
_stay(
    "has no implementation on a CPU, where its shapes are found",
    *("BiasAdd", "BiasDropout", "BiasSoftmax", "BiasSplitGelu", "BitmaskBiasDropout", "BitmaskDropout"),
    *("ComplexMul", "ComplexMulConj", "FusedMatMulActivation", "GemmFastGelu", "GroupNorm", "MatMulInteger16"),
    *("MulInteger", "NhwcConv", "NhwcFusedConv", "QLinearReduceMean", "ReduceSumInteger", "SkipGroupNorm"),
    *("SparseToDenseMatMul", "TorchEmbedding"),
)
RULES.stay(
    "keeps channels in blocks of one kind of processor",
    *(
        f"com.microsoft.nchwc:{op}"
        for op in (
            *("AveragePool", "Conv", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", "ReorderInput"),
            *("ReorderOutput", "Upsample"),
        )
    ),
)


RULES.declare("com.microsoft.nchwc:Conv", mac_terms=convolution_terms(1), bias=Bias(2))
RULES.declare("com.microsoft:IsAllFinite", decides=Deciding())
RULES.declare(
    *("com.microsoft:CropAndResize", "com.microsoft:GridSample", "com.microsoft:MoE", "com.microsoft:QMoE"),
    decides=Deciding(reads=(1,)),
)
RULES.declare(
    *("com.microsoft:DynamicTimeWarping", "com.microsoft:Range", "com.microsoft:Unique"), decides=Deciding(picks=True)
)
RULES.declare(
    *("com.microsoft:BeamSearch", "com.microsoft:GreedySearch", "com.microsoft:Sampling"),
    "com.microsoft:WhisperBeamSearch",
    decides=Deciding(picks=True),
)

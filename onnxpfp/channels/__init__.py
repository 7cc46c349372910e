"""The channel-dependency graph: which indices of which axes must be removed together."""

from __future__ import annotations

from onnxpfp.channels.analysis import Analysis, build_channel_graph, size_edits_of
from onnxpfp.channels.attention_axes import Unit
from onnxpfp.channels.graph import ChannelGraph
from onnxpfp.channels.name_patterns import Patterns
from onnxpfp.channels.types import Consumer, Fixed, Form, Group, IndexRef, Mask, SizeRef

__all__ = [
    "Analysis",
    "ChannelGraph",
    "Consumer",
    "Fixed",
    "Form",
    "Group",
    "IndexRef",
    "Mask",
    "Patterns",
    "SizeRef",
    "Unit",
    "build_channel_graph",
    "size_edits_of",
]

"""The channel-dependency graph: which indices of which axes must be removed together."""

from __future__ import annotations

from onnxpfp.channels.analyse import analyse, spelling_of, uses_of
from onnxpfp.channels.graph import ChannelGraph, Keep
from onnxpfp.channels.heads import Unit
from onnxpfp.channels.selection import Patterns
from onnxpfp.channels.types import Consumer, Fixed, Form, Group, Ids, IndexSpell, Mask, Spell

__all__ = [
    "ChannelGraph",
    "Consumer",
    "Fixed",
    "Form",
    "Group",
    "Ids",
    "IndexSpell",
    "Keep",
    "Mask",
    "Patterns",
    "Spell",
    "Unit",
    "analyse",
    "spelling_of",
    "uses_of",
]

"""Names of nodes and tensors: what a node is called, and names that nothing has yet."""

from __future__ import annotations

from onnx import NodeProto

__all__ = ["first_output", "free_name", "node_name"]


def first_output(node: NodeProto) -> str:
    """Return the first output that has a name, by which a node is found again in another copy of the model."""
    return next((name for name in node.output if name), "")


def node_name(node: NodeProto) -> str:
    """Return how reports call a node: its name, or its first output where it has none."""
    return node.name or first_output(node)


def free_name(stem: str, taken: set[str]) -> str:
    """Return a name that nothing has, the stem if it is free, and add it to those that are taken."""
    name, number = stem, 1
    while name in taken:
        name, number = f"{stem}_{number}", number + 1
    taken.add(name)
    return name

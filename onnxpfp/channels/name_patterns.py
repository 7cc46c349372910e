"""`--include` and `--exclude`: patterns on the names of nodes and initializers."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import GraphProto, ModelProto

from onnxpfp.channels.walk import Walk
from onnxpfp.errors import OptionError
from onnxpfp.model.constants import stored_tensors

__all__ = ["Patterns", "apply_patterns", "names_of"]


@dataclass(frozen=True, slots=True)
class Patterns:
    """Patterns of the names that may be pruned.

    A pattern is a glob, or a regular expression behind `re:`. It matches names of nodes and of
    initializers.

    Attributes:
        include: Where there is one, only channels that a matching node (or a node that reads a
            matching initializer) brings forth may go.
        exclude: Nothing that a matching node reads or writes and no matching initializer changes.
        elsewhere: Names in other graphs of the same file, which a pattern may mean too.
        place: Where the model is a body, the name of all of it.
    """

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    elsewhere: frozenset[str] = frozenset()
    place: str = ""

    def around(self, matched: set[str]) -> bool:
        """Tell whether a name is that of the body itself, of its node, or of what these lie in."""
        return any(f"{self.place}/".startswith(f"{name}/") for name in matched)


def _matches(pattern: str, names: list[str], option: str) -> set[str]:
    """Return the names that match.

    Raises:
        OptionError: There is none, or the expression is wrong.
    """
    if pattern.startswith("re:"):
        try:
            expression = re.compile(pattern[3:])
        except re.error as error:
            raise OptionError(f"{option} '{pattern}' is no regular expression: {error}") from error
        matches = {name for name in names if expression.search(name)}
    else:
        matches = {name for name in names if fnmatch.fnmatchcase(name, pattern)}
    if not matches:
        close = difflib.get_close_matches(pattern, names, 3, cutoff=0.4)
        raise OptionError(
            f"{option} '{pattern}' matches no node and no initializer",
            hint=f"close names: {', '.join(close)}" if close else "see the names in the model",
        )
    return matches


def names_of(graph: GraphProto) -> list[str]:
    """List the names in a graph that a pattern may mean, each once."""
    return list(dict.fromkeys([n.name for n in graph.node if n.name] + list(stored_tensors(graph))))


def apply_patterns(model: ModelProto, walk: Walk, patterns: Patterns) -> None:
    """Fix what the patterns leave out.

    Raises:
        OptionError: A pattern matches nothing.
    """
    stored = stored_tensors(model.graph)
    names = names_of(model.graph)
    names += sorted(patterns.elsewhere.difference(names))
    for pattern in patterns.exclude:
        matched = _matches(pattern, names, "--exclude")
        reason = f"--exclude '{pattern}' leaves it as it is"
        if patterns.around(matched):
            walk.labels.fix(np.arange(1, walk.labels.components().of_label.size), reason)
        touched = matched & stored.keys()
        for node in model.graph.node:
            if node.name in matched:
                touched.update(name for name in (*node.input, *node.output) if name)
        nodes = {i for i, node in enumerate(model.graph.node) if node.name in matched}
        for name, uses in walk.uses.items():
            for (index, _), axes in uses.items():
                if index in nodes or name in matched:
                    for axis in axes:
                        walk.labels.fix(axis, reason)
        for name in touched:
            for axis in walk.axes.get(name, ()):
                walk.labels.fix(axis, reason)
    including = [_matches(pattern, names, "--include") for pattern in patterns.include]
    if including and not any(map(patterns.around, including)):
        _include(model, walk, including)


def _include(model: ModelProto, walk: Walk, matched: list[set[str]]) -> None:
    names = set[str]().union(*matched)
    named: list[np.ndarray] = [np.zeros(1, np.int64)]
    for node in model.graph.node:
        if node.name in names or names.intersection(node.input):
            for name in node.output:
                named += walk.axes.get(name, ())
    parts = walk.labels.components()
    chosen = np.zeros(parts.fixed.size, np.bool_)
    chosen[parts.of_label[np.concatenate(named)]] = True
    rest = ~chosen[parts.of_label]
    rest[0] = False
    walk.labels.fix(np.flatnonzero(rest), "--include does not name it")

"""`--include` and `--exclude`: patterns on the names of nodes and initializers."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto

from onnxpfp.channels.walk import Walk
from onnxpfp.errors import OptionError
from onnxpfp.model.constants import stored_tensors
from onnxpfp.model.names import node_name

__all__ = ["Patterns", "apply_patterns", "matching_names", "name_inside", "names_of", "nodes_left_out"]


@dataclass(frozen=True, slots=True)
class Patterns:
    """Patterns of the names that may be pruned.

    A pattern is a name, a glob, or a regular expression behind `re:`, in this order: names of real files have brackets,
    blanks and stars. It matches names of nodes (of one without a name its first output, as reports call it) and of
    initializers, in bodies of If, Loop and Scan also behind their place, as reports call them: `If_0/then_branch: w`.

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


def matching_names(pattern: str, names: list[str], option: str) -> set[str]:
    """Return the names that match.

    1. A name is itself, whatever is in it.
    2. Behind `re:` stands a regular expression.
    3. All else is a glob; brackets that match nothing as a set of characters stand for themselves.

    Raises:
        OptionError: There is none, or the expression is wrong.
    """
    if pattern in names:
        return {pattern}
    if pattern.startswith("re:"):
        try:
            expression = re.compile(pattern[3:])
        except re.error as error:
            raise OptionError(f"{option} '{pattern}' is no regular expression: {error}") from error
        matches = {name for name in names if expression.search(name)}
    else:
        globs = (pattern, pattern.replace("[", "[[]"))
        matched = ({name for name in names if fnmatch.fnmatchcase(name, glob)} for glob in globs)
        matches = next((some for some in matched if some), set[str]())
    if not matches:
        close = difflib.get_close_matches(pattern, names, 3, cutoff=0.4)
        raise OptionError(
            f"{option} '{pattern}' matches no node and no initializer",
            hint=f"close names: {', '.join(close)}" if close else "see the names in the model",
        )
    return matches


def names_of(graph: GraphProto) -> list[str]:
    """List the names in a graph that a pattern may mean, each once."""
    named = [name for name in map(node_name, graph.node) if name]
    return list(dict.fromkeys([*named, *stored_tensors(graph)]))


def name_inside(place: str, name: str) -> str:
    """Return what reports call something that is in a body at a place."""
    return f"{place}: {name}" if place else name


def _own(matched: set[str], own: Mapping[str, str]) -> set[str]:
    """Add to names those of what they mean in the graph itself."""
    return matched | {own[name] for name in matched if name in own}


def apply_patterns(model: ModelProto, walk: Walk, patterns: Patterns) -> None:
    """Fix what the patterns leave out.

    Raises:
        OptionError: A pattern matches nothing.
    """
    stored = stored_tensors(model.graph)
    names = names_of(model.graph)
    own = {name_inside(patterns.place, name): name for name in names}
    names += sorted(patterns.elsewhere.difference(names))
    for pattern in patterns.exclude:
        matched = _own(matching_names(pattern, names, "--exclude"), own)
        reason = f"--exclude '{pattern}' leaves it as it is"
        if patterns.around(matched):
            walk.labels.fix(np.arange(1, walk.labels.components().of_label.size), reason)
        touched = matched & stored.keys()
        for node in model.graph.node:
            if node_name(node) in matched:
                touched.update(name for name in (*node.input, *node.output) if name)
        nodes = {i for i, node in enumerate(model.graph.node) if node_name(node) in matched}
        for name, uses in walk.uses.items():
            for (index, _), axes in uses.items():
                if index in nodes or name in matched:
                    for axis in axes:
                        walk.labels.fix(axis, reason)
        for name in touched:
            for axis in walk.axes.get(name, ()):
                walk.labels.fix(axis, reason)
    including = [_own(matching_names(pattern, names, "--include"), own) for pattern in patterns.include]
    if including and not any(map(patterns.around, including)):
        _include(model, walk, including)


def nodes_left_out(graph: GraphProto, patterns: Patterns) -> dict[str, str]:
    """Return why nodes are left out by the patterns, by name: a pattern means a node, or all that read an initializer.

    Raises:
        OptionError: A pattern matches nothing.
    """
    names = names_of(graph)
    names += sorted(patterns.elsewhere.difference(names))
    reasons: dict[str, str] = {}
    if patterns.include:
        wanted = set[str]().union(*(matching_names(pattern, names, "--include") for pattern in patterns.include))
        reasons = {node_name(n): "--include does not name it" for n in graph.node if not _means(n, wanted)}
    for pattern in patterns.exclude:
        unwanted = matching_names(pattern, names, "--exclude")
        reasons |= {
            node_name(n): f"--exclude '{pattern}' leaves it as it is" for n in graph.node if _means(n, unwanted)
        }
    return reasons


def _means(node: NodeProto, matched: set[str]) -> bool:
    """Tell whether a node, or something that it reads, has one of the names."""
    return node_name(node) in matched or not matched.isdisjoint(node.input)


def _include(model: ModelProto, walk: Walk, matched: list[set[str]]) -> None:
    names = set[str]().union(*matched)
    weights = names & stored_tensors(model.graph).keys()
    named: list[np.ndarray] = [np.zeros(1, np.int64)]
    for node in model.graph.node:
        if node_name(node) in names or weights.intersection(node.input):
            for name in node.output:
                named += walk.axes.get(name, ())
    parts = walk.labels.components()
    chosen = np.zeros(parts.fixed.size, np.bool_)
    chosen[parts.of_label[np.concatenate(named)]] = True
    rest = ~chosen[parts.of_label]
    rest[0] = False
    walk.labels.fix(np.flatnonzero(rest), "--include does not name it")

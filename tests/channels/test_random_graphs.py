"""Random graphs out of all ops with rules: the oracle, the identity, and a second analysis of the result."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, defs, helper
from support.composer import PIECES, compose, compose_with
from support.composer_checks import equal, examine, folded, hold, loosened, twice
from support.oracle import check_identity, random_keep

from onnxpfp.channels.ops import RULES, STAYS
from onnxpfp.errors import ModelError
from onnxpfp.runtime.providers import resolve_providers
from onnxpfp.runtime.session import open_session

TOO_NEW = frozenset({"SwiGLU"})
"""Ops of opsets that no released onnxruntime loads."""
DRAWING = frozenset({"Bernoulli", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"})
"""Ops that draw anew in every session, so that only their fixed draws can be compared: test_op_rules_drawing.py."""

CALM = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much, HealthCheck.large_base_example]
QUICK = settings(max_examples=40, suppress_health_check=CALM)
FEW = settings(QUICK, max_examples=3)
FRESH = settings(QUICK, max_examples=1000, derandomize=False, print_blob=True)


def masked_original_is_pruned(model: ModelProto, seed: int) -> None:
    case = examine(model)
    if not case.graph.count:
        assert case.reasons
        return
    rng = np.random.default_rng(seed)
    hold(case, random_keep(case.graph, rng, rng.choice([0.0, 0.3, 0.6, 0.9])), seed)


def a_part_of_every_head_goes(model: ModelProto, seed: int) -> None:
    case = examine(model, "width")
    if case.graph.count:
        hold(case, random_keep(case.graph, np.random.default_rng(seed)), seed)


def the_same_choice_gives_the_same_bytes(model: ModelProto, seed: int) -> None:
    case = examine(model)
    check_identity(case)
    twice(case, random_keep(case.graph, np.random.default_rng(seed)))


def the_result_can_be_pruned_again(model: ModelProto, seed: int) -> None:
    case = examine(model)
    if not case.graph.count:
        return
    rng = np.random.default_rng(seed)
    pruned = hold(case, random_keep(case.graph, rng, 0.7), seed)
    again = examine(pruned.model)
    if again.graph.count:
        hold(again, random_keep(again.graph, rng, 0.7), seed)


def rewritten_models_compute_the_same(model: ModelProto, seed: int) -> None:
    plain = folded(model)
    equal(model, plain, seed)
    case = examine(plain)
    loose = loosened(case)
    equal(model, loose, seed)
    after = examine(loose)
    if after.graph.count:
        hold(after, random_keep(after.graph, np.random.default_rng(seed)), seed)


def every_channel_is_in_one_group_and_read(model: ModelProto, seed: int) -> None:
    del seed
    graph = examine(model).graph
    members = np.concatenate([group.channels for group in graph.groups] or [np.zeros(0, np.int64)])
    assert sorted(members) == list(range(1, graph.count + 1))
    for group in graph.groups:
        assert group.consumers
        for position in group.consumers:
            assert np.isin(group.channels, graph.consumers[position].channels).all()


Property = Callable[[ModelProto, int], None]
PROPERTIES: list[Property] = [
    masked_original_is_pruned,
    a_part_of_every_head_goes,
    the_same_choice_gives_the_same_bytes,
    the_result_can_be_pruned_again,
    rewritten_models_compute_the_same,
    every_channel_is_in_one_group_and_read,
]
OFTEN: dict[Property, tuple[str, ...]] = {
    a_part_of_every_head_goes: ("MatMul", "QLinearMatMul", "Softmax", "com.microsoft:FusedMatMul"),
    rewritten_models_compute_the_same: ("Conv", "Reshape", "Split"),
}
"""Ops without which a property has little to say."""
every_property = pytest.mark.parametrize("holds", PROPERTIES, ids=lambda holds: holds.__name__)


@every_property
@QUICK
@given(data=st.data(), seed=st.integers(0, 99))
def test_grown_graphs(holds, data, seed):
    holds(data.draw(compose(often=OFTEN.get(holds, ()))), seed)


@pytest.mark.slow
@every_property
@FRESH
@given(data=st.data(), seed=st.integers(0, 99))
def test_fresh_graphs(holds, data, seed):
    holds(data.draw(compose(often=OFTEN.get(holds, ()))), seed)


@pytest.mark.parametrize("op", sorted(PIECES))
@FEW
@given(data=st.data())
def test_a_graph_grows_by_the_op(op, data):
    model = data.draw(compose_with(op))
    assert op in {f"{node.domain}:{node.op_type}".removeprefix(":") for node in model.graph.node}
    masked_original_is_pruned(model, 0)


def test_the_composer_knows_every_op_with_a_rule():
    assert PIECES.keys() == RULES.keys() - STAYS.keys() - TOO_NEW - DRAWING


@pytest.mark.parametrize("op", sorted(TOO_NEW))
def test_onnxruntime_does_not_load_the_others(op):
    schema = defs.get_schema(op)
    node = helper.make_node(op, ["x"] * schema.min_input, ["y"])
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 4]) for name in "xy"]
    opset = helper.make_opsetid("", schema.since_version)
    graph = helper.make_graph([node], "one", infos[:1], infos[1:])
    model = helper.make_model(graph, opset_imports=[opset], ir_version=11)
    with pytest.raises(ModelError, match="under development"):
        open_session(model, resolve_providers(["cpu"]), threads=1)

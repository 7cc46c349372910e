"""Every op of the standard has a rule or stands on the explicit list with its reason."""

from __future__ import annotations

import pytest
from onnx import defs

from onnxpfp.channels.ops import RULES, STAYS


def ops_of(domain: str) -> set[str]:
    return {schema.name for schema in defs.get_all_schemas_with_history() if schema.domain == domain}


def test_every_op_of_the_standard_domain_is_ruled_or_listed():
    assert ops_of("") - RULES.keys() == set()


def test_every_op_of_the_classical_domain_is_listed():
    assert {f"ai.onnx.ml:{op}" for op in ops_of("ai.onnx.ml")} - STAYS.keys() == set()


@pytest.mark.parametrize("op", sorted(STAYS))
def test_the_reason_is_a_verb_phrase_of_the_node(op):
    assert STAYS[op].split()[0].endswith("s")

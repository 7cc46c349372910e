"""The audit of promises computes what it says: sign parts by the definition, and what counts as informative."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import nets
import numpy as np
import pytest

from benchmarks.promises.audit_rows import Counts, Record, append, compact, read, total
from benchmarks.promises.audit_runs import Pruned, counts_of, prune, ways, without_what_costs_nothing
from benchmarks.promises.choice_errors import choice_errors, lost, mean_squares
from benchmarks.promises.networks_run import Nodes, output_errors
from benchmarks.promises.sign_parts import Layer, Window, part_errors

WINDOW = Window((2, 3), pads=(1, 0, 0, 2), strides=(2, 1), dilations=(1, 2))


def by_definition(original: nets.Array, after: nets.Array, windows: nets.Array) -> nets.Array:
    """Largest relative error of the sign parts that are not zero, by input."""
    worst: list[float] = []
    for windows_of_one in windows:
        errors: list[float] = []
        for one, output, s, t in product(windows_of_one, range(original.shape[-1]), (1, -1), (1, -1)):
            z, other = (
                sum(max(s * w, 0) * max(t * a, 0) for w, a in zip(weight[..., output].flat, one.flat, strict=True))
                for weight in (original, after)
            )
            if z > 0:
                errors.append(abs(z - other) / z)
        worst.append(max(errors))
    return np.array(worst)


def test_errors_of_sign_parts_are_those_of_the_definition() -> None:
    layer = Layer("x", "w", WINDOW)
    original = layer.canonical(nets.noise(4, 3, 2, 3, seed=1))
    after = original * np.array([1.0, 0.0, 1.5])[:, None, None]
    windows = layer.windows(nets.noise(5, 3, 4, 6, seed=2))
    whole, part = part_errors(original, [(after, np.arange(4)), (after[..., [1, 3]], np.array([1, 3]))], windows)
    for found, outputs in ((whole, [0, 1, 2, 3]), (part, [1, 3])):
        worst = by_definition(original[..., outputs], after[..., outputs], windows)
        np.testing.assert_allclose(found, worst, rtol=1e-9)


def test_windows_are_those_of_onnxruntime() -> None:
    text = """g (float[N,3,4,6] x) => (y) {
        y = Conv <pads = [1,0,0,2], strides = [2,1], dilations = [1,2]> (x, w) }"""
    model = nets.build(text, {"w": (4, 3, 2, 3)})
    layer, data = Nodes.of(model).layers["node_y"], nets.noise(5, 3, 4, 6)
    assert layer.window == WINDOW
    sums = np.einsum("npck,cko->npo", layer.windows(data), layer.canonical(nets.weights(model)["w"]))
    wanted = nets.run(model, data)
    np.testing.assert_allclose(sums.transpose(0, 2, 1).reshape(wanted.shape), wanted, rtol=1e-4, atol=1e-4)


def test_output_errors_are_relative_to_the_channels_that_are_left() -> None:
    model, other = nets.chain(), nets.chain()
    kept = np.array([0, 2, 3])
    for tensor in other.graph.initializer:
        if tensor.name in {"w1", "b1"}:
            tensor.CopyFrom(nets.numpy_helper.from_array(2 * nets.weights(model)[tensor.name][kept], tensor.name))
        elif tensor.name == "w2":
            tensor.CopyFrom(nets.numpy_helper.from_array(nets.weights(model)["w2"][:, kept], tensor.name))

    def keep(weight: str, axis: int, length: int) -> nets.Array:
        return kept if weight == "w1" else np.arange(length)

    errors = output_errors(model, other, nets.noise(40, 3, 8, 8), Nodes.of(model), keep)
    assert list(errors) == ["node_a", "node_c", "node_y"]
    np.testing.assert_allclose(errors["node_a"], np.ones(40), rtol=1e-5)
    assert errors["node_c"].min() > 0


@pytest.mark.parametrize(
    ("epsilons", "by_choice", "by_file", "wanted"),
    [
        ([1.0, 2.0], [True, False], [True, True], (2, 0, 0, 0, 0, 0)),
        ([0.0, 0.5, 0.5, 0.5], [False, False, True, False], [True, True, True, False], (4, 4, 1, 2, 1, 3)),
    ],
)
def test_a_row_informs_that_is_below_1_not_0_and_kept(
    epsilons: Sequence[float], by_choice: Sequence[bool], by_file: Sequence[bool], wanted: tuple[int, ...]
) -> None:
    names = ("rows", "below", "zero", "informative", "broken_by_choice", "broken_by_file")
    assert Counts.of_rows(epsilons, by_choice, by_file) == Counts(**dict(zip(names, wanted, strict=True)))


def test_a_bound_of_a_layer_is_kept_where_so_many_inputs_are_within_it(tmp_path: Path) -> None:
    layers = [
        {"name": name, "mean": 0.1, "bound": bound, "share": share}
        for name, bound, share in (("a", 0.5, 0.75), ("b", 0.5, 0.8), ("c", 1.0, 0.5), ("d", None, None))
    ]
    errors = {name: np.array([0.1, 0.2, 0.3, 0.9]) for name in "abcd"}
    counts = Counts.of_rows([0.5], [False], [False]).with_layers(layers, errors)
    assert (counts.layers, counts.bounded, counts.kept) == (4, 2, 1)
    record = Record(file="net", way="--score pfp", target=0.9, images=256, inputs=4, counts=counts)
    file = tmp_path / "rows.jsonl"
    for each in (replace(record, images=1), record):
        append(file, each)
    compact(file)
    assert len(file.read_text().splitlines()) == 1
    assert read(file) == {record.key: record}
    assert total([record, record]).kept == 2


def test_promises_of_a_trained_network_are_counted_and_what_is_too_small_is_seen() -> None:
    file, calibration = nets.network("resnet"), nets.fmnist("calibration")
    before = without_what_costs_nothing(file, calibration)
    ran = [prune(file, calibration, 0.9, way) for way in ways(["pfp"])[:2]]
    inputs = nets.fmnist("test", 24)
    for run, found in zip(ran, counts_of(file, before, ran, calibration, inputs), strict=True):
        rows = [len(group["consumers"]) for group in run.document["groups"] if group["epsilon"] is not None]
        assert found.rows == sum(rows) > 0
        assert found.broken_by_choice == 0
        assert found.errors == found.errors_below == found.errors_kept == found.rows
    small = [replace(run, document={**run.document, "groups": _with_epsilon(run, 1e-3)}) for run in ran]
    for found in counts_of(file, before, small, calibration, inputs):
        assert found.broken_by_choice == found.broken_by_file == found.below == found.rows
        assert (found.errors_below, found.errors_kept) == (found.rows, 0)


def _with_epsilon(run: Pruned, epsilon: float) -> list[dict[str, Any]]:
    """Groups of a report with another eps, and the same for the error, where they have them."""
    return [
        {**group, **{name: group[name] and epsilon for name in ("epsilon", "choice_error")}}
        for group in run.document["groups"]
    ]


def test_errors_of_a_choice_are_those_of_the_definition() -> None:
    original, windows, seen = nets.noise(4, 2, 3, seed=1), nets.noise(5, 6, 4, 2, seed=2), nets.noise(7, 6, 4, 2)
    loss = np.array([0.0, 1.0, -0.5, 0.0])
    # An output that went says nothing of the others.
    after = (original * (1 - loss)[:, None, None])[..., [0, 2]]
    np.testing.assert_allclose(lost(original, after, np.array([0, 2])), loss, atol=1e-6)
    units = mean_squares(original, [seen[:3], seen[3:]])
    np.testing.assert_allclose(units, np.square(np.einsum("npck,cko->npo", seen, original)).mean((0, 1)), rtol=1e-5)
    changes = np.einsum("npck,cko,c->npo", windows, original, loss)
    assert (changes**2 > units).any()
    wanted = np.minimum(changes**2, units).mean(1).sum(1) / units.sum()
    (found,) = choice_errors(original, [loss], windows, units)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_ways_are_pfp_to_the_letter_and_the_default() -> None:
    assert [way.name for way in ways(["pfp", "energy"])] == [
        *(
            f"--score pfp --select {how} --allocate bound --compensate none"
            for how in ("deterministic", "sampled", "mixed")
        ),
        "--score pfp",
        "--score energy --allocate bound --compensate none",
        "--score energy",
    ]

"""The oracle over whole networks: those of the repository, and the project's shared models and zoo."""

from __future__ import annotations

import io
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, numpy_helper
from support.oracle import Case, problem, random_keep

from onnxpfp.arrays import Keep
from onnxpfp.channels.branches import Branches
from onnxpfp.comparison.drift import check
from onnxpfp.comparison.equivalence import check_equivalence, tolerance
from onnxpfp.model.shapes import example_feeds
from onnxpfp.rewrite import Edits, apply
from onnxpfp.rewrite.apply import what_stays
from onnxpfp.rewrite.mask import masked
from onnxpfp.runtime import resolve_providers

ROOT = Path(__file__).parents[2]
MODELS = sorted((ROOT / "models").glob("*.onnx"))
SHARED = ROOT.parent / "shared"
SHARED_MODELS = sorted((SHARED / "models").glob("*.onnx"))
ZOO = SHARED / "zoo" / "zoo.zip"


def zoo_names() -> list[str]:
    """Names of the graphs in the zoo; one placeholder where it is not here."""
    if not ZOO.is_file():
        return ["absent"]
    with zipfile.ZipFile(ZOO) as archive:
        return sorted(name for name in archive.namelist() if name.endswith(".onnx"))


def unpack(archive: zipfile.ZipFile, name: str) -> ModelProto:
    """Read a graph of the zoo and draw its weights, as shared/zoo/unpack.py does."""
    rng = np.random.default_rng(0)
    model = ModelProto.FromString(archive.read(name))
    for key, array in np.load(io.BytesIO(archive.read(f"{name}.npz"))).items():
        index, kind, scale, low = key.split(":")
        tensor: TensorProto = model.graph.initializer[int(index)]
        dims = list(tensor.dims)
        drawn = kind == "n"
        values = (
            rng.normal(float(low), float(scale), dims) if drawn else array.reshape(dims) * float(scale) + float(low)
        )
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), tensor.name))
    return model


def check_network(model: ModelProto, *, seed: int = 0, fraction: float = 0.6) -> Case:
    """Prune a random choice of channels, then all branches too, and hold the results against the masked original."""
    case = problem(model)
    graph = case.graph
    same = apply(model, graph, graph.keep_all(), Edits())
    assert same.SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)
    if not graph.groups:
        assert graph.fixed, "nothing can go, and nothing says why"
        return case
    keep = random_keep(graph, np.random.default_rng(seed), fraction)
    check_choice(case, keep, seed)
    branches = Branches.of(case.analysis)
    for number in branches.closed(branches.may_go):
        keep[graph.groups[number].channels] = False
    if branches.may_go:
        check_choice(case, keep, seed)
    return case


def check_choice(case: Case, keep: Keep, seed: int) -> None:
    """Hold a network that keeps some channels against the masked original."""
    model, graph = case.model, case.graph
    pruned = apply(model, graph, keep, Edits())
    check(model, pruned)
    feeds = [example_feeds(model, case.shapes.inputs, np.random.default_rng(seed))]
    check_equivalence(
        masked(model, graph, keep, case.shapes),
        pruned,
        feeds,
        allowed=tolerance(model, case.shapes),
        providers=resolve_providers("cpu"),
        threads=1,
        kept=partial(what_stays, graph, keep),
    )


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
@pytest.mark.parametrize("seed", [0, 1])
def test_trained_model(path, seed):
    case = check_network(onnx.load(path), seed=seed)
    assert case.graph.count > 100


@pytest.mark.shared
@pytest.mark.skipif(not SHARED_MODELS, reason=f"{SHARED / 'models'} is not there")
@pytest.mark.parametrize("path", SHARED_MODELS, ids=lambda path: path.stem)
def test_shared_model(path):
    case = check_network(onnx.load(path))
    assert case.graph.count > 300


@pytest.mark.shared
@pytest.mark.skipif(not ZOO.is_file(), reason=f"{ZOO} is not there")
@pytest.mark.parametrize("name", zoo_names())
def test_zoo_graph(name):
    with zipfile.ZipFile(ZOO) as archive:
        model = unpack(archive, name)
    check_network(model)

"""Calibration where the network runs, on any provider, with a record of what was run and of what came back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from numpy.typing import NDArray
from onnx import ModelProto, helper

from onnxpfp.calibrate.nonnegative import nonnegative_tensors
from onnxpfp.calibrate.observer import Batch
from onnxpfp.calibrate.probe import build_probe
from onnxpfp.calibrate.sensitivity.device import DeviceSensitivityObserver, Programs
from onnxpfp.calibrate.sensitivity.settings import Kernel, SensitivitySettings
from onnxpfp.calibrate.statistics import Statistics
from onnxpfp.data.samples import Samples
from onnxpfp.errors import ProviderError
from onnxpfp.linear.families import op_families
from onnxpfp.linear.ops import LinearOp
from onnxpfp.runtime.binding import DeviceOutputs
from onnxpfp.runtime.device_memory import device_memory_of
from onnxpfp.runtime.providers import resolve_providers
from onnxpfp.runtime.session import open_session
from support.brute_shares import model_of

PROVIDERS = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
WORKSPACE = 64 << 20
SMALL = model_of([helper.make_node("Relu", ["x"], ["y"])], {"x": (1,)}, ["y"])


@dataclass(frozen=True)
class Ran:
    """One run of a graph.

    Attributes:
        program: Which graph.
        feeds: What it was fed.
        home: What came back to the host.
    """

    program: Any
    feeds: dict[str, Any]
    home: dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Recorded(Programs):
    """Notes every run."""

    ran: list[Ran] = field(default_factory=list[Ran])

    def run(self, program: Any, feeds: Mapping[str, Any], home: Any = ()) -> dict[str, Any]:
        found = Programs.run(self, program, feeds, home)
        self.ran.append(Ran(program, dict(feeds), {name: found[name].numpy() for name in home}))
        return found

    def of(self, name: str) -> list[Ran]:
        return [each for each in self.ran if type(each.program).__name__ == name]


def programs_on(provider: str) -> Recorded:
    """Strict where there is a device; skips where it does not run."""
    requests = resolve_providers(provider, strict=provider != "cpu")
    try:
        open_session(SMALL, requests)
    except ProviderError as error:
        pytest.skip(str(error))
    place = device_memory_of(requests)
    assert place is not None
    return Recorded(place, requests, 1)


def measure_there(
    model: ModelProto,
    ops: Sequence[LinearOp],
    samples: Samples,
    programs: Recorded,
    *,
    kernel: Kernel = "sum",
    batch: int = 3,
    workspace: int = WORKSPACE,
    first: int = 1,
) -> Statistics:
    plan = SensitivitySettings(kernel, batch, workspace_bytes=workspace)
    families = op_families(ops)
    probe = build_probe(model, [], plan, families)
    nonnegative = nonnegative_tensors(model)
    observers = [
        DeviceSensitivityObserver(family, plan, family.lead.data in nonnegative, tap, programs, first)
        for family, tap in zip(families, probe.taps, strict=True)
    ]
    session = open_session(probe.model, programs.requests, threads=1)
    forward = DeviceOutputs(session, probe.taps, programs.place)
    for feeds, count in samples.runs(batch):
        values = forward.run(feeds)
        for observer in observers:
            observer.see(values, Batch(0, count))
    found = {name: entry for each in observers for name, entry in each.statistics().items()}
    return {op.name: found[op.name] for op in ops}

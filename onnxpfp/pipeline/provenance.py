"""What a file says of how it was made: the version, its source, the target, the options, and the agreement.

Nothing of it depends on when, where and by whom it is made: the same input and the same options give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from math import floor
from numbers import Real
from typing import Any, Self, cast

import numpy as np
from google.protobuf.message import EncodeError
from onnx import ModelProto

import onnxpfp
from onnxpfp.comparison.drift import Drift
from onnxpfp.options import ModelOptions
from onnxpfp.options.declaration import Option, declared
from onnxpfp.runtime.external_data import is_reference

__all__ = ["Provenance", "options_given", "target_given"]

_SECTIONS = ("choice", "data")
"""Options that say what is made; those of running say where, and a target has an entry of its own."""
_FILES = ("FILE", "SRC", "DIR", "LIBRARY")
"""How the metavars of options begin that name files."""
_OF_REPLAYS = {"compensate", "effort", "calib-samples", "sample-axis", "input-shape", "batch-size", "confidence"}
"""Options that a replay of a plan has of its own. The others say what stays, so they are those of the plan."""

_OF_PLANS = ("target", "options", "agreement")
"""Entries that a plan has, too."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """What a file will say of itself.

    Attributes:
        entries: All but the agreement, by name (`onnxpfp.model.provenance`).
        silent: Whether the file shall say nothing.
        telling: Whether the samples are the user's, so that an agreement on them says something.
        planned: What the plan that is replayed says of the file that it was made with; empty where there is none.
    """

    entries: Mapping[str, str] = field(default_factory=dict[str, str])
    silent: bool = True
    telling: bool = False
    planned: Mapping[str, str] = field(default_factory=dict[str, str])

    @classmethod
    def of(
        cls,
        verb: str,
        options: ModelOptions,
        sha256: str,
        *,
        telling: bool,
        silent: bool,
        planned: Mapping[str, str] | None = None,
    ) -> Self:
        """Describe a run.

        Args:
            verb: What is done.
            options: How.
            sha256: Checksum of the input.
            telling: Whether the samples are the user's.
            silent: Whether the file shall say nothing.
            planned: What the plan that is replayed was made by, empty where it does not say; None where there is none.
        """
        target, given = target_given(verb, options), options_given(options)
        if planned is not None:
            target = planned.get("target", f"{verb} --from-plan")
            of_plan = _read(planned.get("options", ""))
            given = {name: value for name, value in of_plan.items() if name not in _OF_REPLAYS} | given
        entries = {"version": onnxpfp.__version__, "source_sha256": sha256, "target": target}
        if given:
            entries["options"] = json.dumps(given, sort_keys=True, separators=(",", ":"))
        return cls(entries, silent, telling, planned or {})

    def measured(self, drift: Drift | None, model: ModelProto) -> Mapping[str, str]:
        """Return the entries of a file.

        Args:
            drift: How far its outputs are from the original's.
            model: The file without them.
        """
        return {} if self.silent else self._told(drift, model)

    def made_by(self, drift: Drift | None, model: ModelProto) -> Mapping[str, str]:
        """Return what a plan says of the file that it was made with; arguments as for `measured`."""
        told = {name: text for name, text in self._told(drift, model).items() if name in _OF_PLANS}
        checksum = _checksum(model)
        return {**told, "sha256": checksum} if checksum else told

    def longest(self, drift: Drift | None) -> Mapping[str, str]:
        """Return entries that take at least as many bytes as those of any file that is measured in this way."""
        if self.silent or drift is None or drift.top1_agreement is None or not self.telling:
            return {} if self.silent else self.entries
        return {**self.entries, "agreement": _agreement(1.0, drift.samples, held_out=drift.held_out)}

    def _told(self, drift: Drift | None, model: ModelProto) -> Mapping[str, str]:
        if self.planned.get("sha256") and self.planned["sha256"] == _checksum(model):
            # It is that file, whatever the replay knows of how it was made.
            own = {name: text for name, text in self.entries.items() if name not in _OF_PLANS}
            return own | {name: text for name, text in self.planned.items() if name in _OF_PLANS}
        if drift is None or drift.top1_agreement is None or not self.telling:
            return self.entries
        return {**self.entries, "agreement": _agreement(drift.top1_agreement, drift.samples, held_out=drift.held_out)}


def options_given(options: ModelOptions) -> dict[str, Any]:
    """Return the options that are not the defaults and say what is made, by flag without dashes; no files."""
    defaults = type(options)()
    pairs = {
        option.flag_of(name).removeprefix("--"): (_plain(getattr(options, name)), _plain(getattr(defaults, name)))
        for name, option in declared(type(options))
        if _says_what(name, option)
    }
    return {flag: value for flag, (value, default) in pairs.items() if value != default}


def target_given(verb: str, options: ModelOptions) -> str:
    """Return what was asked for as it would be typed, the default if nothing was."""
    targets = [(name, option) for name, option in declared(type(options)) if option.section == "target"]
    values = {name: getattr(options, name) for name, _ in targets}
    given = [
        f"{option.flag_of(name)} {values[name]:.15g}" for name, option in targets if isinstance(values[name], Real)
    ]
    by_table = [f"{option.flag_of(name)}" for name, option in targets if isinstance(values[name], str)]
    if not given:
        first = next((option.flag_of(name), option.default_text) for name, option in targets)
        given = [] if getattr(options, "sets_widths", False) else [" ".join(first)]
    return " ".join([verb, *given, *by_table])


def _says_what(name: str, option: Option) -> bool:
    return (option.section in _SECTIONS or name == "seed") and not option.metavar.startswith(_FILES)


def _plain(value: object) -> Any:
    """Return a value in types that JSON knows; a criterion of the user's own has a name."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic | np.ndarray):
        return cast("object", value.tolist())
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, Sequence):
        return [_plain(inner) for inner in cast("Sequence[Any]", value)]
    if isinstance(value, AbstractSet):
        # In an order that is the same in every run.
        return sorted((_plain(inner) for inner in cast("AbstractSet[Any]", value)), key=str)
    return str(getattr(value, "name", type(value).__name__))


def _read(text: str) -> dict[str, Any]:
    """Read the options that a plan was made by; a plan may have been written by others."""
    try:
        read: object = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", read) if isinstance(read, dict) else {}


def _checksum(model: ModelProto) -> str:
    """Return a checksum of a file; empty where weights lie in others, for it does not have their numbers then."""
    if any(is_reference(tensor) for tensor in model.graph.initializer):
        return ""
    try:
        return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
    except (EncodeError, ValueError):
        # Above 2 GB it is written in two files.
        return ""


def _agreement(share: float, samples: int, *, held_out: bool) -> str:
    """Write a share of samples in as many digits, whatever it is, and never rounded up."""
    return f"{floor(10_000 * share + 1e-9) / 10_000:.4f} on {samples} {'held-out ' * held_out}samples"

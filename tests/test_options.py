"""Options are declared once: help, signature, checks and the table in docs/options.md come from there."""

from __future__ import annotations

import inspect
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

import onnxpfp
from onnxpfp.cli.main import main
from onnxpfp.cli.options import options_of, takes
from onnxpfp.errors import OptionError
from onnxpfp.options import Options, ScopeOptions
from onnxpfp.options.declaration import declare, declared
from onnxpfp.options.factorization import FactorizeOptions
from onnxpfp.options.inspection import InspectOptions
from onnxpfp.options.latency import LatencyOptions
from onnxpfp.options.prunability import PrunabilityOptions
from onnxpfp.options.scores import ScoreOptions
from onnxpfp.options.sparsification import SparsifyOptions
from onnxpfp.options.sweep import SweepOptions
from onnxpfp.options.verbs import VERB_OPTIONS
from onnxpfp.options.verification import VerifyOptions
from onnxpfp.pipeline.costs import QUANTITIES

ROOT = Path(__file__).parents[1]
FUNCTIONS = {"score": "measure_scores"}
"""Names of functions that are not those of their verbs: `onnxpfp.score` is a package."""
EVERY = {name: option for kind in VERB_OPTIONS.values() for name, option in declared(kind)}


@pytest.mark.parametrize("verb", VERB_OPTIONS)
def test_a_verb_takes_the_options_of_its_class_and_no_others(verb: str) -> None:
    own = dict(declared(VERB_OPTIONS[verb]))
    command = main.commands[verb]
    flags = {flag for parameter in command.params for flag in parameter.opts}
    function = getattr(onnxpfp, FUNCTIONS.get(verb, verb))
    for name, any_option in EVERY.items():
        # The same name may be declared otherwise in another verb.
        option = own.get(name, any_option)
        assert (option.flag_of(name) in flags) == (name in own), name
        assert (name in inspect.signature(function).parameters) == (name in own), name
        assert (f"    {name}: {option.help}" in (function.__doc__ or "")) == (name in own), name


@pytest.mark.parametrize("verb", VERB_OPTIONS)
def test_help_shows_what_is_declared(verb: str) -> None:
    shown = " ".join(CliRunner().invoke(main, [verb, "--help"], terminal_width=400).output.split())
    for name, option in declared(VERB_OPTIONS[verb]):
        default = f" [default: {option.default_text}]" if option.default_text else ""
        repeated = " Repeatable." if option.repeated else ""
        assert " ".join(option.help.split()) + repeated + default in shown, name
        assert f"{option.flag_of(name)} {option.metavar or '['}" in shown or isinstance(
            getattr(VERB_OPTIONS[verb](), name), bool
        ), name


def test_every_verb_says_which_options_it_takes() -> None:
    kinds = {
        "prune": Options,
        "sweep": SweepOptions,
        "factorize": FactorizeOptions,
        "sparsify": SparsifyOptions,
        "inspect": InspectOptions,
        "prunability": PrunabilityOptions,
        "verify": VerifyOptions,
        "latency": LatencyOptions,
        "score": ScoreOptions,
    }
    assert kinds == VERB_OPTIONS
    # A merge takes files alone, and the doctor nothing.
    assert VERB_OPTIONS.keys() | {"merge", "doctor"} == main.commands.keys()


def test_the_signature_of_the_api_is_whole() -> None:
    parameters = inspect.signature(onnxpfp.prune).parameters
    assert next(iter(parameters)) == "model"
    assert {"calibration", "from_plan", "progress"} <= set(parameters)
    assert all(p.kind is p.KEYWORD_ONLY for name, p in parameters.items() if name != "model")
    with pytest.raises(TypeError, match="keep_mac"):
        onnxpfp.prune("in.onnx", keep_mac=0.5)  # type: ignore[call-arg]


def _even(flag: str, value: int) -> None:
    if value % 2:
        raise OptionError(f"{flag} {value} is odd")


@dataclass(frozen=True, slots=True, kw_only=True)
class _More(ScopeOptions):
    pairs: int | None = declare(None, "Things in pairs.", "choice", metavar="N", default_text="none", check=_even)


def test_an_option_is_one_declaration() -> None:
    read: list[Any] = []

    @click.command()
    @takes(_More)
    def command(typed: Any) -> None:
        read.append(options_of(_More, typed, Path("in.onnx")))

    shown = " ".join(CliRunner().invoke(command, ["--help"], terminal_width=200).output.split())
    assert "--pairs N Things in pairs. [default: none]" in shown
    assert CliRunner().invoke(command, ["--pairs", "4", "--exclude", "a", "--exclude", "b"]).exit_code == 0
    assert (read[0].pairs, read[0].exclude, read[0].attention) == (4, ("a", "b"), "heads")
    refused = CliRunner().invoke(command, ["--pairs", "3"]).exception
    assert isinstance(refused, OptionError)
    assert str(refused) == "--pairs 3 is odd"


def test_the_readmes_table_is_made_from_them() -> None:
    check = [sys.executable, str(ROOT / "docs" / "options_table.py"), "--check"]
    assert subprocess.run(check, capture_output=True, text=True, check=False).stdout == ""


def test_a_default_that_is_a_number_or_a_word_is_shown() -> None:
    shown = {name for name, option in EVERY.items() if option.default_text}
    values = {name: getattr(Options(), name, None) for name in EVERY}
    assert {
        name for name, value in values.items() if isinstance(value, int | float | str) and value is not False
    } <= shown
    assert (EVERY["delta"].default_text, EVERY["seed"].default_text, EVERY["score"].default_text) == (
        "1e-16",
        "0",
        "pfp",
    )


def test_the_options_of_a_prunability_are_those_of_its_prunings() -> None:
    given = PrunabilityOptions(score="l1", threads=3, include=["a"], tolerance=0.5)
    pruning = given.pruning()
    assert (pruning.score, pruning.threads, pruning.include, pruning.target) == ("l1", 3, ["a"], ("macs", 0.7))


def test_both_networks_of_a_verification_are_read_and_run_by_its_options() -> None:
    given = VerifyOptions(samples=5, threads=3, seed=7, workspace=2_000_000, max_drift=0.1, no_latency=True)
    running = given.running()
    assert (running.samples, running.threads, running.seed, running.workspace) == (5, 3, 7, 2_000_000)
    assert (running.no_latency, running.max_drift) == (True, None)


def test_layers_are_left_out_by_patterns_of_their_own() -> None:
    given = FactorizeOptions(samples=5, threads=3, exclude=["a"], round_to=16, energy=0.9, latency_batch=2)
    running, comparing = given.running(), given.comparing()
    assert (running.samples, running.threads, running.round_to, running.latency_batch) == (5, 3, 16, 2)
    assert (running.exclude, running.target) == ((), ("macs", 0.7))
    assert (comparing.samples, comparing.threads, comparing.no_latency) == (5, 3, True)
    assert (given.share_of_macs, FactorizeOptions().share_of_macs, FactorizeOptions(keep_macs=0.4).share_of_macs) == (
        None,
        0.7,
        0.4,
    )


def test_a_latency_is_measured_of_what_would_be_pruned_by_the_same_options() -> None:
    given = LatencyOptions(samples=5, threads=3, exclude=["a"], round_to=16, latency_batch=2, attention="width")
    running = given.running()
    assert (running.samples, running.threads, running.exclude, running.latency_batch) == (5, 3, ["a"], 2)
    assert (running.round_to, running.attention, running.target[0]) == (16, "width", "latency")


def test_every_share_is_of_something_that_is_counted() -> None:
    shares = [name for name, option in declared(Options) if name[:5] == "keep_" and option.section == "target"]
    assert [f"keep_{name}" for name in QUANTITIES] == shares


@pytest.mark.parametrize(
    ("given", "target"), [({}, "macs"), ({"keep_macs": 0.9}, "macs"), ({"keep_params": 1}, "params")]
)
def test_another_share_is_of_the_same_thing(given: dict[str, float], target: str) -> None:
    options = Options(**given)
    assert (options.target[0], options.keeping(0.4).target) == (target, (target, 0.4))


@pytest.mark.parametrize(
    ("asked", "measured", "structure"),
    [
        ({"keep_latency": 0.5}, True, "channels,rank,blocks"),
        ({"latency_ms": 2.0}, True, "channels,rank,blocks"),
        ({"keep_latency": 0.5}, False, "channels"),
        ({"keep_macs": 0.5}, True, "channels"),
        ({"keep_latency": 0.5, "latency_table": "table.json"}, True, "channels"),
        ({"keep_latency": 0.5, "allocate": "bound"}, True, "channels"),
        ({"keep_latency": 0.5, "compensate": "bias"}, True, "channels"),
        ({"keep_latency": 0.5, "steps": 2}, True, "channels"),
        ({"keep_latency": 0.5, "structure": "channels,blocks"}, True, "channels,blocks"),
    ],
)
def test_what_may_go_follows_the_target(asked: dict[str, Any], measured: bool, structure: str) -> None:
    assert Options(**asked).choosing(measured=measured).structure == structure


def test_a_table_of_all_classes_is_none_of_the_model_that_keeps_some() -> None:
    """What goes first changes the ops that the table has the times of."""
    table: dict[str, Any] = {"keep_latency": 0.5, "latency_table": "table.json"}
    with pytest.raises(
        OptionError, match=r"^--latency-table has the times of the model with all its classes"
    ) as caught:
        Options(**table, keep_classes="0-4")
    assert "measure the table of that file" in caught.value.hint
    assert Options(keep_latency=0.5, keep_classes="0-4").keep_classes == "0-4"

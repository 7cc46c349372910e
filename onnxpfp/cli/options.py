"""Groups of options: a verb subscribes to those it needs, so that a flag means the same in every verb.

Each group is a dataclass and a decorator; the decorator adds the flags to a command and hands the
command one argument, an instance of the dataclass.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, Self

import click

from onnxpfp.options import SCORES

__all__ = [
    "Choice",
    "Data",
    "Output",
    "Runtime",
    "Scope",
    "Target",
    "choice_options",
    "data_options",
    "output_options",
    "runtime_options",
    "scope_options",
    "target_options",
    "verbosity_options",
]

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

FILE = click.Path(path_type=Path)


@dataclass(frozen=True, slots=True)
class Target:
    """How much stays; see `onnxpfp.options.Options`."""

    keep_macs: float | None
    keep_params: float | None
    max_drift: float | None
    min_agreement: float | None

    @classmethod
    def none(cls) -> Self:
        """Nothing was asked for."""
        return cls(None, None, None, None)

    @property
    def flags(self) -> str:
        """What was asked for, as it is typed."""
        given = [field.name for field in fields(self) if getattr(self, field.name) is not None]
        return " ".join(f"--{name.replace('_', '-')}" for name in given)


@dataclass(frozen=True, slots=True)
class Choice:
    """Which channels stay; see `onnxpfp.options.Options`."""

    select: Literal["deterministic", "sampled", "mixed", "auto"]
    score: str
    allocate: Literal["bound", "measured", "uniform"] | None
    steps: int
    kernel: Literal["sum", "max"]
    compensate: Literal["auto", "lstsq", "bias", "none"]
    delta: float
    round_to: int | None
    min_channels: int
    attention: Literal["heads", "width"]
    include: tuple[str, ...]
    exclude: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Data:
    """What the model is run on.

    Attributes:
        calib_data: A path, the word "random", or None.
        calib_samples: Most samples to use.
        batch_size: Most samples in one run.
        input_shape: Shapes as they were typed.
    """

    calib_data: str | None
    calib_samples: int | None
    batch_size: int | None
    input_shape: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Scope:
    """What is looked at where no data are needed.

    Attributes:
        input_shape: Shapes as they were typed.
        attention: See `onnxpfp.options.Options`.
        include: See `onnxpfp.options.Options`.
        exclude: See `onnxpfp.options.Options`.
    """

    input_shape: tuple[str, ...]
    attention: Literal["heads", "width"]
    include: tuple[str, ...]
    exclude: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Runtime:
    """Where and how it runs; see `onnxpfp.options.Options`. The workspace is as it was typed."""

    seed: int
    threads: int | None
    workspace: str
    providers: str
    strict_providers: bool


@dataclass(frozen=True, slots=True)
class Output:
    """What is written beside the model.

    Attributes:
        plan: Where the plan goes.
        from_plan: A plan to replay.
        json: Where the report goes; "-" is stdout.
        force: Whether the input may be overwritten.
    """

    plan: Path | None
    from_plan: Path | None
    json: Path | None
    force: bool


def _group(name: str, kind: type[Any], *options: Decorator) -> Decorator:
    """Make the decorator that collects `options` into one argument `name` of type `kind`."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def call(*args: Any, **found: Any) -> Any:
            collected = kind(**{field.name: found.pop(field.name) for field in fields(kind)})
            return command(*args, **found, **{name: collected})

        for option in reversed(options):
            option(call)
        return call

    return decorate


_PATTERNS = (
    click.option(
        "--include",
        multiple=True,
        metavar="PAT",
        help="Prune only these nodes and initializers: a glob, or re:REGEX. Repeatable.",
    ),
    click.option("--exclude", multiple=True, metavar="PAT", help="Leave these as they are; likewise. Repeatable."),
)
_ATTENTION = click.option(
    "--attention",
    type=click.Choice(["heads", "width"]),
    default="heads",
    show_default=True,
    help="What goes from an attention: whole heads, or the same part of every head.",
)
_INPUT_SHAPE = click.option(
    "--input-shape",
    multiple=True,
    metavar="NAME:1,3,224,224",
    help="Shape of an input with free axes; no name needed where there is one input. Repeatable.",
)

target_options = _group(
    "target",
    Target,
    click.option(
        "--keep-macs", type=float, metavar="F", help="Share of the multiply-adds that stays, in (0, 1].  [default: 0.7]"
    ),
    click.option("--keep-params", type=float, metavar="F", help="Share of the parameters that stays, in (0, 1]."),
    click.option(
        "--max-drift",
        type=float,
        metavar="X",
        help="In their place: prune the multiply-adds as far as the relative error of the outputs, on held-out "
        "samples, stays within X.",
    ),
    click.option(
        "--min-agreement",
        type=float,
        metavar="A",
        help="Likewise: as far as the share of held-out samples with the same top-1 class stays at A or more.",
    ),
)

choice_options = _group(
    "choice",
    Choice,
    click.option(
        "--select",
        type=click.Choice(["auto", "deterministic", "sampled", "mixed"]),
        default="auto",
        show_default=True,
        help="Which channels stay: the most sensitive, a weighted draw, both, or per group the smallest bound.",
    ),
    click.option(
        "--score",
        type=click.Choice(list(SCORES)),
        default="pfp",
        show_default=True,
        help="What ranks the channels of a group.",
    ),
    click.option(
        "--allocate",
        type=click.Choice(["measured", "bound", "uniform"]),
        help="What sets widths: the measured drift of the output, one error bound, or one share for all.  "
        "[default: measured with data, else bound]",
    ),
    click.option(
        "--steps",
        type=int,
        default=1,
        show_default=True,
        metavar="N",
        help="Measure scores and widths anew so often, on the network as it is pruned by then.",
    ),
    click.option(
        "--kernel",
        type=click.Choice(["sum", "max"]),
        default="sum",
        show_default=True,
        help="Sensitivity over whole kernel windows (the bound holds) or single taps (the authors' code).",
    ),
    click.option(
        "--compensate",
        type=click.Choice(["auto", "lstsq", "bias", "none"]),
        default="auto",
        show_default=True,
        help="Refit what reads dropped channels by least squares (lstsq), fold their mean into biases, or neither.",
    ),
    click.option("--delta", type=float, default=1e-16, show_default=True, help="Probability that a bound may fail."),
    click.option(
        "--round-to", type=int, metavar="N", help="Keep channels in multiples of N.  [default: 8 from 32 channels on]"
    ),
    click.option(
        "--min-channels", type=int, default=1, show_default=True, metavar="N", help="Fewest channels of a group."
    ),
    _ATTENTION,
    *_PATTERNS,
)

data_options = _group(
    "data",
    Data,
    click.option(
        "--calib-data",
        metavar="SRC",
        help="Unlabelled inputs: .npz keyed by input name, or .npy; axis 0 = samples. 'random' is noise, for trials.",
    ),
    click.option("--calib-samples", type=int, metavar="N", help="Most samples to use.  [default: all]"),
    click.option(
        "--batch-size", type=int, metavar="N", help="Most samples in one run.  [default: 16, or what the model takes]"
    ),
    _INPUT_SHAPE,
)

scope_options = _group("scope", Scope, _INPUT_SHAPE, _ATTENTION, *_PATTERNS)

runtime_options = _group(
    "runtime",
    Runtime,
    click.option("--seed", type=int, default=0, show_default=True, help="Of everything that is drawn."),
    click.option("--threads", type=int, metavar="N", help="Threads of onnxruntime.  [default: its own choice]"),
    click.option(
        "--workspace",
        default="512MB",
        show_default=True,
        metavar="SIZE",
        help="Memory for what is measured and fitted, beside the network itself: 512MB, 2GB, 1.5GiB, ...",
    ),
    click.option(
        "--providers",
        default="cpu",
        show_default=True,
        metavar="LIST",
        help="Where to run, by priority: cpu, cuda, cuda:1, trt, ... or names of onnxruntime, comma-separated.",
    ),
    click.option(
        "--strict-providers",
        is_flag=True,
        help="Fail where a node can only run on the CPU; else the CPU helps out.",
    ),
)

output_options = _group(
    "output",
    Output,
    click.option("--plan", type=FILE, metavar="FILE.json", help="Write what was kept, to replay or map back."),
    click.option("--from-plan", type=FILE, metavar="FILE.json", help="Replay a plan in place of scoring."),
    click.option(
        "--json", type=FILE, metavar="FILE|-", help="Write the report as JSON; - is stdout, without the table."
    ),
    click.option("--force", is_flag=True, help="Allow OUT to be IN."),
)


def verbosity_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add -q and -v; the command gets `verbosity`: -1 quiet, 0, 1 everything, 2 with tracebacks."""

    @functools.wraps(command)
    def call(*args: Any, quiet: bool, verbose: int, **found: Any) -> Any:
        return command(*args, verbosity=verbose or -int(quiet), **found)

    option = click.option("-v", "--verbose", count=True, help="Show every row and phase; -vv shows tracebacks.")
    option(call)
    click.option("-q", "--quiet", is_flag=True, help="Show errors only.")(call)
    return call

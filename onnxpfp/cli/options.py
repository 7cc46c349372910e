"""The options of a verb as click options, made from their declarations in `onnxpfp.options`.

A verb subscribes to a class of options with `takes`, and gets one argument: the values as they were typed. `options_of`
makes the options of them. What only the command line has (files to write, rows to show) is declared here.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import click

from onnxpfp.cli.parsing import (
    parse_axes,
    parse_count,
    parse_number,
    parse_ranges,
    parse_several,
    parse_shapes,
    parse_share_or_size,
    parse_size,
)
from onnxpfp.errors import OptionError
from onnxpfp.options import ModelOptions
from onnxpfp.options.declaration import Option, declared
from onnxpfp.report.formats import FORMATS
from onnxpfp.report.page import MOST

__all__ = [
    "FILE",
    "STDOUT",
    "Reporting",
    "Typed",
    "certify_option",
    "data_files",
    "data_option",
    "options_of",
    "reporting_options",
    "scores_option",
    "takes",
]

Command = Callable[..., Any]
Typed = Mapping[str, Any]
"""Values by the name of their field, as click read them."""
O = TypeVar("O", bound=ModelOptions)  # noqa: E741

FILE = click.Path(path_type=Path)
STDOUT = Path("-")
_SCRIPT = re.compile(r"(\.py):\w+$")

SECTIONS = ("data", "target", "choice", "runtime")
"""The order in which help shows them."""


def takes(kind: type[ModelOptions]) -> Callable[[Command], Command]:
    """Add the options of a class to a verb, which gets `typed`."""
    hints = get_type_hints(kind)
    options = dict(declared(kind))
    order = sorted(options, key=lambda name: SECTIONS.index(options[name].section))

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def call(*args: Any, **given: Any) -> Any:
            typed = {name: given.pop(name) for name in options}
            return command(*args, typed=typed, **given)

        # click shows what is added last first.
        for name in reversed(order):
            _click_option(name, options[name], hints[name])(call)
        return call

    return decorate


def data_option(command: Command) -> Command:
    """Add --calib-data to a verb that runs the network; it gets `calib_data`: a path, the word "random", or None."""
    help_text = (
        "Unlabelled inputs: .npz keyed by input name, or .npy, samples along the batch axis; a folder of images, of "
        ".npy or .npz files, or of ONNX test data; script.py:function, which yields feeds. 'random' is noise, for "
        "trials."
    )
    return click.option("--calib-data", metavar="SRC", help=help_text)(command)


def certify_option(command: Command) -> Command:
    """Add --certify-data to a verb that measures its result; it gets `certify_data`: a path or None."""
    help_text = (
        "Other unlabelled inputs, of the same form: what is said of the written file is measured on them. They decide "
        "nothing, unless --max-drift or --min-agreement tests on them how much may go. Without them some of "
        "--calib-data are held out for that."
    )
    return click.option("--certify-data", metavar="SRC", help=help_text)(command)


def scores_option(command: Command) -> Command:
    """Add --scores to a verb that prunes; it gets `scores`: a path or None."""
    help_text = (
        "Prune by the scores of this file of `onnxpfp score` or `onnxpfp merge`, in place of measuring them. With "
        "--calib-data all else goes on as without it; alone, layers are fitted one by one by what the file has of the "
        "original."
    )
    return click.option("--scores", type=FILE, metavar="FILE.npz", help=help_text)(command)


def data_files(calib_data: str | None, certify_data: str | None = None) -> dict[str, Path]:
    """Return the files of the samples by their flags, where there are any."""
    given = {"--calib-data": calib_data, "--certify-data": certify_data}
    files = {flag: source for flag, source in given.items() if source is not None and source != "random"}
    # Of script.py:function the file is read.
    return {flag: Path(_SCRIPT.sub(r"\1", source)) for flag, source in files.items()}


def _click_option(name: str, option: Option, hint: Any) -> Callable[[Command], Command]:
    """Make the click option of a field."""
    names = (option.flag_of(name), name)
    if hint is bool:
        return click.option(*names, is_flag=True, help=option.help)
    help_text = f"{option.help} Repeatable." if option.repeated else option.help
    if option.default_text:
        help_text += f"  [default: {option.default_text}]"
    return click.option(
        *names,
        type=click.Choice(option.choices) if option.choices else _type_of(option, hint),
        multiple=option.repeated,
        metavar=option.metavar or None,
        help=help_text,
    )


def _type_of(option: Option, hint: Any) -> type[Any]:
    """Return int, float or str: that of a value that is typed."""
    if option.form != "plain":
        return str
    given = [part for part in (*get_args(hint), hint) if part in (int, float, str)]
    return given[0] if given else str


def options_of(kind: type[O], typed: Typed, model: Path | None) -> O:
    """Make the options of what was typed.

    Args:
        kind: Their class.
        typed: The values; None where nothing was.
        model: The model, which tells the name of its input where a shape or axis is given without; None leaves these
            out.

    Raises:
        OptionError: A value cannot be meant.
        ModelError: The model must be asked for a name and cannot be read.
    """
    values = {name: value for name, value in typed.items() if value is not None}
    amounts = {"size": parse_size, "share or size": parse_share_or_size}
    for name, option in declared(kind):
        if option.several and name in values:
            values[name] = parse_several(option.flag_of(name), values[name], amounts.get(option.form, parse_number))
        elif option.form in amounts and name in values:
            values[name] = amounts[option.form](option.flag_of(name), values[name])
        if option.form == "count" and name in values:
            values[name] = parse_count(values[name])
    parse = {"shape": parse_shapes, "axis": parse_axes, "range": parse_ranges}
    of_inputs = {name: values.pop(name) for name, option in declared(kind) if option.form in parse}
    options = kind(**values)
    # What inputs have comes last: it may need the model, which is read only if the other values are right.
    if model is None or not any(of_inputs.values()):
        return options
    forms = {name: option.form for name, option in declared(kind)}
    values |= {name: parse[forms[name]](texts, model) for name, texts in of_inputs.items()}
    return kind(**values)


@dataclass(frozen=True, slots=True)
class Reporting:
    """How a verb reports.

    Attributes:
        files: Where the report goes by format, a file or `STDOUT`; text goes to stdout where no other does.
        top: Most rows of a table; None leaves it to the table.
        every: Whether every row is asked for.
        verbosity: -1 quiet, 0, 1 everything, 2 with tracebacks.
    """

    files: Mapping[str, Path]
    top: int | None
    every: bool
    verbosity: int

    @property
    def full(self) -> bool:
        """Whether text has every row and all details."""
        return self.every or self.verbosity > 0

    @property
    def in_files(self) -> bool:
        """Whether a file is written."""
        return any(path != STDOUT for path in self.files.values())

    def check_rows(self, what: str) -> None:
        """Make sure that a number of rows can be meant.

        Args:
            what: What a row shows.

        Raises:
            OptionError: It is given where it has no meaning, or below one.
        """
        if self.top is None:
            return
        if self.top < 1:
            raise OptionError(f"--top {self.top} must be at least 1")
        if self.every or self.files:
            flag = "all" if self.every else next(iter(self.files))
            raise OptionError(f"--{flag} shows every {what}, so --top has no meaning with it")


def reporting_options(what: str, default: str = str(MOST)) -> Callable[[Command], Command]:
    """Add what all verbs have in common, which is how they report; the verb gets `reporting`.

    Args:
        what: What a row of its tables shows, such as "N groups, the most fragile first".
        default: How many of them are shown where nothing is asked for.
    """

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def call(*args: Any, top: int | None, every: bool, quiet: bool, verbose: int, **given: Any) -> Any:
            typed = {name: given.pop(f"{name}_file") for name in FORMATS}
            files = {name: path for name, path in typed.items() if path is not None}
            reporting = Reporting(files, top, every, verbose or -int(quiet))
            return command(*args, reporting=reporting, **given)

        # click shows what is added last first.
        click.option("-v", "--verbose", count=True, help="Show every row and phase; -vv shows tracebacks.")(call)
        click.option("-q", "--quiet", is_flag=True, help="Show errors only.")(call)
        for name, form in reversed([*FORMATS.items()]):
            help_text = f"Write the report as {form.title}, always complete; - is stdout, without the tables."
            metavar = f"FILE{form.suffix}|-"
            click.option(f"--{name}", f"{name}_file", type=FILE, metavar=metavar, help=help_text)(call)
        click.option("--all", "every", is_flag=True, help="Show every row, as -v does.")(call)
        return click.option("--top", type=int, metavar="N", help=f"Show at most {what}.  [default: {default}]")(call)

    return decorate

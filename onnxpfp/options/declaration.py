"""What an option is: a field of a dataclass with its help, flag and check, from which all else is made."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, fields
from typing import Any, Literal

__all__ = ["Option", "as_in", "declare", "declared", "shared_values"]

Section = Literal["data", "target", "choice", "runtime"]
"""Options of one section stand together in help and docs/options.md."""
Check = Callable[[str, Any], None]
"""Raises OptionError if a value, given under a flag, cannot be meant."""


@dataclass(frozen=True, slots=True)
class Option:
    """The declaration of an option; its name, type and default are those of the field that has it.

    Attributes:
        help: One sentence for help, docstring and docs/options.md.
        section: What it belongs to.
        flag: Its name on the command line, without dashes; empty where that is the field's.
        metavar: What stands for its value in help.
        choices: The values that are allowed; empty if any are.
        default_text: The default as help shows it; empty where there is none.
        form: What is typed where that is no plain value: an amount of memory, a share or an amount, the shape of an
            input, one of its axes or the range of its numbers.
        repeated: Whether it may be given several times.
        several: Whether it takes several values, separated by commas.
        check: Refuses values that cannot be meant.
        modifies: Whether it says how to count a target, and is none itself.
    """

    help: str
    section: Section
    flag: str = ""
    metavar: str = ""
    choices: tuple[str, ...] = ()
    default_text: str = ""
    form: Literal["plain", "size", "share or size", "shape", "axis", "range", "count"] = "plain"
    repeated: bool = False
    several: bool = False
    check: Check | None = None
    modifies: bool = False

    def flag_of(self, name: str) -> str:
        """Return the flag of a field, with dashes."""
        return f"--{self.flag or name.replace('_', '-')}"


def declare(default: Any, help: str, section: Section, **more: Any) -> Any:
    """Declare a field that is an option; a default that is no number or word needs a text, if it is shown."""
    if "default_text" not in more and isinstance(default, int | float | str) and default is not False:
        more["default_text"] = str(default)
    metadata = {"option": Option(help, section, **more)}
    if isinstance(default, dict):
        return field(default_factory=dict[str, Any], metadata=metadata)
    return field(default=default, metadata=metadata)


def declared(kind: type[Any]) -> Iterator[tuple[str, Option]]:
    """Yield the options of a class by field name, those of its parents first."""
    for item in fields(kind):
        if "option" in item.metadata:
            yield item.name, item.metadata["option"]


def as_in(kind: type[Any], name: str) -> Any:
    """Declare a field that is the option of another class."""
    known = next(item for item in fields(kind) if item.name == name)
    if callable(known.default_factory):
        return field(default_factory=known.default_factory, metadata=known.metadata)
    return field(default=known.default, metadata=known.metadata)


def shared_values(options: object, kind: type[Any], *, but: Collection[str] = ()) -> dict[str, Any]:
    """Return the values that options have for those of another class, by field name.

    Args:
        options: An instance of a class of options.
        kind: The other class.
        but: Names of options that mean something else there; targets do in any case, and are left out.
    """
    theirs = {name for name, option in declared(kind) if option.section != "target"}
    return {name: getattr(options, name) for name, _ in declared(type(options)) if name in theirs.difference(but)}

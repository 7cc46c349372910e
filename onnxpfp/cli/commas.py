"""Options that take several values in one word, with commas: blanks in their place are told as what they are."""

from __future__ import annotations

import re

import click

__all__ = ["CommaCommand"]

_VALUE = re.compile(r",?-?[\d.]+([-x]\d+)*([kMGT]i?B)?,?|,", re.IGNORECASE)
"""A number, a range or an amount, with a comma left at an end of it."""


class CommaCommand(click.Command):
    """A verb with such options."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments.

        Raises:
            UsageError: As click says it; where values have blanks between them, with how to write them.
        """
        typed = [*args]
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            # The values behind the first are arguments that nobody expects; all other errors have classes of their own.
            written = self._with_commas(typed) if type(error) is click.UsageError else ""
            if not written:
                raise
            flag = written.split(" ")[0]
            message = f"{flag} takes several values with commas and no blanks between them: write {written}"
            raise click.UsageError(message, ctx) from error

    def _with_commas(self, args: list[str]) -> str:
        """Return the first option that has several values behind it as it is meant; empty where there is none."""
        flags = {flag for param in self.params for flag in _flags(param)}
        for place, arg in enumerate(args):
            flag, equals, first = arg.partition("=")
            if flag not in flags:
                continue
            values = [first] if equals else []
            for other in args[place + 1 :]:
                if not _VALUE.fullmatch(other):
                    break
                values.append(other)
            if len(values) > 1:
                return f"{flag} {','.join(filter(None, ','.join(values).split(',')))}"
        return ""


def _flags(param: click.Parameter) -> list[str]:
    """Return the flags of an option that takes several values."""
    lists = (
        isinstance(param, click.Option)
        and param.metavar is not None
        and ("," in param.metavar or param.metavar == "LIST")
    )
    return [*param.opts] if lists else []

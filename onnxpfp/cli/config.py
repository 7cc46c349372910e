"""`--config FILE.toml` and `--save-config FILE.toml`, the same for every verb.

A file has the flags without dashes as keys. Those at its top are for all verbs that have them, those of a table such as
`[prune]` for this verb, where they win; what is typed wins over both:

    threads = 1

    [prune]
    keep-macs = 0.6
    include = ["conv*", "fc1"]
"""

from __future__ import annotations

import difflib
import functools
import json
import tomllib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import click
from click.core import ParameterSource

from onnxpfp.cli.failure import failing_in_one_line
from onnxpfp.cli.options import FILE
from onnxpfp.errors import OptionError
from onnxpfp.options.declaration import declared
from onnxpfp.options.verbs import VERB_OPTIONS

__all__ = ["configurable"]

MOST_BYTES = 1 << 20
"""Of a file; one that has every option takes some kilobytes."""
ONE_TARGET = ("prune", "sweep", "factorize")
"""Verbs that take one target: one that is typed takes the place of one in the file."""
DRY_RUN = "dry-run"
"""No option of what is written, so it is not saved."""
SAVED = "onnxpfp.cli.config.saved"
"""Where a context notes the file to write."""


def configurable(command: click.Command) -> click.Command:
    """Let a verb read options from a file, and write those that it was given into one."""
    command.params.insert(
        _position(command),
        _ConfigOption(
            ["--config"],
            type=FILE,
            metavar="FILE.toml",
            is_eager=True,
            expose_value=False,
            help="Read options from this file: flags without dashes as keys, for one command in a table of its name. "
            "Those on the command line win.",
        ),
    )
    command.params.insert(
        _position(command),
        click.Option(
            ["--save-config"],
            type=FILE,
            metavar="FILE.toml",
            expose_value=False,
            callback=_note_file,
            help="Write the options that were given into this file once the run has ended well; --config repeats them.",
        ),
    )
    run = command.callback
    assert run is not None

    @functools.wraps(run)
    def call(*args: Any, **given: Any) -> Any:
        context = click.get_current_context()
        file: Path | None = context.meta.get(SAVED)
        if file is None:
            return run(*args, **given)
        with failing_in_one_line(verbosity=0):
            text = _written(command, context)
            _check(file, context)
        result = run(*args, **given)
        with failing_in_one_line(verbosity=0):
            from onnxpfp.model.save import save_bytes

            save_bytes(file, text.encode())
            if not context.params["quiet"]:
                from onnxpfp.cli.outputs import tell_written

                tell_written([str(file)])
        return result

    command.callback = call
    return command


def _position(command: click.Command) -> int:
    """Return where help shows the options of files: before those of reports."""
    names = [param.name for param in command.params]
    return names.index("top") if "top" in names else len(names)


class _ConfigOption(click.Option):
    """Reads a file before other options are looked at, which take their values from it where none is typed."""

    def handle_parse_result(
        self, ctx: click.Context, opts: Mapping[str, Any], args: list[str]
    ) -> tuple[Any, list[str]]:
        """Read the file."""
        value, rest = super().handle_parse_result(ctx, opts, args)
        # What stands for a missing value is None in some versions of click, and an object of its own in others.
        if isinstance(value, Path) and not ctx.resilient_parsing:
            with failing_in_one_line(verbosity=0):
                ctx.default_map = _without_targets(ctx, _values(ctx, value), opts)
        return value, rest


def _note_file(ctx: click.Context, param: click.Parameter, value: object) -> None:
    if isinstance(value, Path):
        ctx.meta[SAVED] = value


def _options(command: click.Command) -> dict[str, click.Option]:
    """Return the options of a verb by their keys in a file."""
    options = [param for param in command.params if isinstance(param, click.Option) and param.expose_value]
    return {max(option.opts, key=len).removeprefix("--"): option for option in options}


def _values(ctx: click.Context, file: Path) -> dict[str, Any]:
    """Return the values of a file for the verb of a context, by the names of its parameters.

    Raises:
        OptionError: It cannot be read, or has something that is no option.
    """
    root = ctx.find_root().command
    verbs = dict(root.commands) if isinstance(root, click.Group) else {str(ctx.command.name): ctx.command}
    for_all, own = dict[str, Any](), dict[str, Any]()
    for key, value in _read(file).items():
        if isinstance(value, dict):
            if key not in verbs:
                raise OptionError(f"{file}: [{key}] is no command of onnxpfp", hint=_close(key, verbs))
            table = cast("dict[str, Any]", value)
            for name in table:
                _require(name, _options(verbs[key]), f"{file}: [{key}]", f"onnxpfp {key}")
            own = table if verbs[key] is ctx.command else own
        else:
            _require(key, {name: None for verb in verbs.values() for name in _options(verb)}, f"{file}:", "any command")
            for_all[key] = value
    options = _options(ctx.command)
    given = {key: value for key, value in (for_all | own).items() if key in options}
    return {str(options[key].name): _value(options[key], f"{file}: {key}", value) for key, value in given.items()}


def _read(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as opened:
            data = opened.read(MOST_BYTES + 1)
    except OSError as error:
        raise OptionError(f"--config {file}: cannot be read: {error.strerror}") from error
    if len(data) > MOST_BYTES:
        raise OptionError(f"--config {file}: has more than {MOST_BYTES:,} bytes")
    try:
        return tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise OptionError(f"--config {file}: is no TOML: {error}") from error


def _require(key: str, known: Collection[str], where: str, whose: str) -> None:
    if key not in known:
        raise OptionError(f"{where} {key} is no option of {whose}", hint=_close(key, known))


def _close(word: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(word.replace("_", "-"), known, n=3)
    return f"did you mean {' or '.join(close)}?" if close else ""


def _value(option: click.Option, where: str, value: object) -> Any:
    """Return a value as it would come from the command line.

    Raises:
        OptionError: It is of a type that the option does not take.
    """
    if option.is_flag or isinstance(value, bool):
        if not (option.is_flag and isinstance(value, bool)):
            raise OptionError(f"{where} takes {'true or false' if option.is_flag else 'a value'}, not {value!r}")
        return value
    values = cast("list[object]", value) if isinstance(value, list) else [value]
    wrong = next((each for each in values if isinstance(each, bool) or not isinstance(each, int | float | str)), None)
    if wrong is not None:
        raise OptionError(f"{where} takes text or numbers, not {wrong!r}")
    if option.multiple:
        return values
    return ",".join(map(str, values)) if isinstance(value, list) else value


def _without_targets(ctx: click.Context, values: dict[str, Any], opts: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the target of a file where another one is typed, or a plan that says what stays."""
    verb = str(ctx.command.name)
    if verb not in ONE_TARGET:
        return values
    targets = {
        name for name, option in declared(VERB_OPTIONS[verb]) if option.section == "target" and not option.modifies
    }
    typed = {name for name, value in opts.items() if value is not None}
    return {n: v for n, v in values.items() if n not in targets} if typed & {*targets, "from_plan"} else values


def _check(file: Path, ctx: click.Context) -> None:
    """Make sure that the file can be written, and overwrites nothing else that is named.

    Raises:
        OutputError: It cannot be written there, or a file of another kind is.
        OptionError: It is another file of the run.
    """
    from onnxpfp.cli.outputs import keep_others
    from onnxpfp.model.save import check_target

    check_target(file, source=None, force=False)
    for param in ctx.command.params:
        value = ctx.params.get(str(param.name))
        if isinstance(value, str | Path) and str(value) != "-" and Path(value).resolve() == file.resolve():
            named = param.opts[0] if isinstance(param, click.Option) else param.human_readable_name
            raise OptionError(f"{file}: --save-config and {named} are the same file", hint="give it another name")
    keep_others("--save-config", file, "options")


def _written(command: click.Command, ctx: click.Context) -> str:
    """Write the options that were given, on the command line or in a file, as a table of the verb.

    Raises:
        OptionError: One is no text, as names of files may be.
    """
    given = (ParameterSource.COMMANDLINE, ParameterSource.DEFAULT_MAP)
    lines = [f"# onnxpfp {command.name} ... --config with this file repeats the run.", f"[{command.name}]"]
    for key, option in _options(command).items():
        # A dry run is there to find the options of the run that writes.
        if key != DRY_RUN and ctx.get_parameter_source(str(option.name)) in given:
            lines.append(f"{key} = {_toml(ctx.params[str(option.name)], key)}")
    return "\n".join(lines) + "\n"


def _toml(value: object, key: str) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(_toml(each, key) for each in cast('Sequence[object]', value))}]"
    text = str(value)
    if not text.isprintable() and any(0xD800 <= ord(letter) <= 0xDFFF for letter in text):
        raise OptionError(f"--save-config cannot write --{key} {text!r}, which is no text")
    # Strings of JSON are strings of TOML, but for one letter.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")

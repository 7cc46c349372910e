"""Keywords of the Python API, made from the fields of a dataclass: each is declared once, typed, and documented.

    @keywords(PruneArguments)
    def prune(model: ModelSource, arguments: PruneArguments) -> Result: ...

    prune("in.onnx", calibration="inputs.npz", keep_macs=0.6)

Type checkers see the constructor's keywords through a ParamSpec; `help` sees the signature and the docstring.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from dataclasses import Field, fields
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from onnxpfp.errors import OnnxPfpError
from onnxpfp.model.load import ModelSource
from onnxpfp.options.declaration import Option, declared
from onnxpfp.options.verbs import VERB_OPTIONS
from onnxpfp.time_limit import limited

__all__ = ["CALIBRATION", "CERTIFICATION", "PROGRESS", "SCORES_FILE", "documented", "in_keywords", "keywords"]

CALIBRATION = (
    "Unlabelled samples: a path of a `.npz` or `.npy` file, of a folder of images, of such files or of ONNX test data, "
    "`script.py:function`, an array or arrays by input name (samples along axis 0 or the free axis), an iterable of "
    'feeds, an onnxruntime CalibrationDataReader, or the word "random"; None prunes by weights alone.'
)
"""Help of the keyword `calibration`."""
CERTIFICATION = (
    "Other samples, in the forms of `calibration`, that measure the result and decide nothing, unless a target of "
    "quality tests on them how much may go; None holds some of the calibration samples out for that."
)
"""Help of the keyword `certification`."""
SCORES_FILE = (
    "Scores to prune by, in place of measuring them: a file, or `report.scores` of `measure_scores` or "
    "`merge_scores`. With `calibration` all else goes on as without them; alone, layers are fitted one by one by what "
    "they have of the original."
)
"""Help of the keyword `scores`."""
PROGRESS = "A function that is told the phase, how far it is, and how far it goes."
"""Help of the keyword `progress`."""

_KEYWORDS = {
    "--calib-data": "calibration",
    "--certify-data": "certification",
    "--scores": "scores",
    **{option.flag_of(name): name for kind in VERB_OPTIONS.values() for name, option in declared(kind)},
}
_FLAG = re.compile(r"--[a-z]+(?:-[a-z]+)*")
_TYPED_SHAPE = re.compile(r"--input-shape ([^\s:']+):([\d,]+)")
_TYPED_AXIS = re.compile(r"--sample-axis ([^\s:']+):(-?\d+|none)")

P = ParamSpec("P")
A = TypeVar("A")
R = TypeVar("R")


def documented(help: str) -> dict[str, str]:
    """Return the metadata of a field that is a keyword of the Python API alone: one sentence for its docstring."""
    return {"help": help}


def keywords(
    kind: Callable[P, A],
) -> Callable[[Callable[[ModelSource, A], R]], Callable[Concatenate[ModelSource, P], R]]:
    """Let a function of a model and a dataclass take the dataclass's fields as keywords.

    Args:
        kind: The dataclass, all of whose fields are keywords.
    """

    def decorate(function: Callable[[ModelSource, A], R]) -> Callable[Concatenate[ModelSource, P], R]:
        @functools.wraps(function)
        def call(model: ModelSource, *args: P.args, **given: P.kwargs) -> R:
            try:
                arguments = kind(*args, **given)
                with limited(cast("Any", arguments).timeout):
                    return function(model, arguments)
            except OnnxPfpError as error:
                error.args = tuple(in_keywords(str(part)) for part in error.args)
                error.hint = in_keywords(error.hint)
                raise

        described = cast("Any", call)
        described.__signature__ = _signature(cast("Any", kind), inspect.signature(function))
        described.__doc__ = _docstring(cast("Any", kind), inspect.getdoc(function) or "")
        return call

    return decorate


def in_keywords(message: str) -> str:
    """Return a message, which names the flags of the command line, with the keywords of the API in their place."""
    message = _TYPED_SHAPE.sub(r'input_shapes {"\1": (\2)}', message)
    message = _TYPED_AXIS.sub(
        lambda typed: f'sample_axes {{"{typed[1]}": {typed[2].replace("none", "None")}}}', message
    )
    return _FLAG.sub(lambda match: _KEYWORDS.get(match[0], match[0]), message)


def _signature(kind: type[Any], function: inspect.Signature) -> inspect.Signature:
    model = next(iter(function.parameters.values()))
    constructor = inspect.signature(kind)
    return function.replace(parameters=[model, *constructor.parameters.values()])


def _docstring(kind: type[Any], text: str) -> str:
    """Put the help of every field in the place of the argument that holds them."""
    lines = [f"    {item.name}: {_help(item)}" for item in fields(kind)]
    before, mark, after = text.partition("    arguments: ")
    assert mark, f"{kind.__name__} has no line in the docstring"
    _, _, rest = after.partition("\n")
    return "\n".join([before.rstrip("\n"), *lines, rest])


def _help(item: Field[Any]) -> str:
    option: Option | None = item.metadata.get("option")
    if option is None:
        return str(item.metadata["help"])
    undecided = item.default is None and option.default_text
    return f"{option.help} None: {option.default_text}." if undecided else option.help

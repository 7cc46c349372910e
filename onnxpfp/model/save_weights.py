"""A model and the file of its weights, which no system replaces in one step.

What is at `OUT` is whole at every moment, with the weights that belong to it:

1. Weights and model are written under temporary names, and brought onto the disk. The model names `OUT.1a2b3c4d.data`.
2. The weights get that name, which nobody else has.
3. The model becomes `OUT`; from here on it is the new one.
4. `OUT.data`, if it belonged to the old `OUT`, goes; the weights get that name too, the model is written once more,
   with it, and the other name goes.

Whoever is killed between 2 and 3, or in step 4, leaves a file `OUT.1a2b3c4d.data`; if `OUT` does not name it, it can be
deleted. Where a file cannot have two names (FAT) or the disk is full, the weights keep that name.
"""

from __future__ import annotations

import contextlib
import logging
import re
import secrets
from pathlib import Path
from typing import IO

from onnx import ModelProto

from onnxpfp.errors import OutputError
from onnxpfp.model.constants import all_graphs
from onnxpfp.model.load import external_files
from onnxpfp.model.new_files import flush, flush_folder, new_file
from onnxpfp.runtime.external_data import PAGE, FileSlice, is_reference, pieces
from onnxpfp.runtime.given_files import MESSAGE_LIMIT
from onnxpfp.runtime.scratch import saving

__all__ = ["require_own_weights", "save_with_weights", "saved_size", "weights_beside", "weights_owned"]

_LOG = logging.getLogger(__name__)

EXTERNAL_FROM = 1024
"""Bytes; smaller weights, shapes among them, stay in the model."""
REFERENCE = 352
"""Bytes that a reference to a part of a file takes at most, whose name has the 255 that file systems allow."""


def weights_beside(path: Path) -> Path:
    """Return the file in which the weights of a model lie."""
    return path.with_name(f"{path.name}.data")


def weights_owned(path: Path) -> tuple[Path, ...]:
    """Return the files beside a model that hold its weights under names that we give, `OUT.data` first."""
    beside = weights_beside(path)
    ours = re.compile(rf"{re.escape(path.name)}\.[0-9a-f]{{8}}\.data")
    if path.is_symlink():
        # Its weights are those of what it links to, and stay.
        return ()
    read = external_files(path)
    fresh = [file for file in read if file.parent == path.parent and ours.fullmatch(file.name)]
    # One that was killed in step 4 left both names.
    owns = beside in read or (bool(fresh) and beside.is_file())
    return (*([beside] if owns else []), *fresh)


def require_own_weights(path: Path, *, force: bool) -> None:
    """Make sure that no file is overwritten that is none of a model's.

    Raises:
        OutputError: `OUT.data` is there, and the model at `OUT` does not read it.
    """
    beside = weights_beside(path)
    if (beside.exists() or beside.is_symlink()) and not force and beside not in weights_owned(path):
        raise OutputError(
            f"{path}: its weights would overwrite {beside}, which is none of {path.name}'s",
            hint="give OUT another name, or --force to overwrite it",
        )


def save_with_weights(path: Path, model: ModelProto, *, force: bool) -> int:
    """Write a model, and its weights into a file beside it.

    onnx.save_model is not used: it refuses where a file of that name is in the working directory, makes files that only
    their owner can read, and writes over the weights of the model that is there.

    Returns:
        Bytes written.

    Raises:
        OutputError: They cannot be written, or would overwrite what is not theirs.
    """
    require_own_weights(path, force=force)
    old, beside = weights_owned(path), weights_beside(path)
    fresh = path.with_name(f"{path.name}.{secrets.token_hex(4)}.data")
    copy = ModelProto()
    copy.CopyFrom(model)
    with new_file(path) as (main, new_main), new_file(beside) as (file, new_weights):
        _write_weights(file, copy, fresh.name)
        size = file.tell()
        flush(file)
        main.write(copy.SerializeToString())
        flush(main)
        with saving():
            _give_names(path, new_main, new_weights, fresh)
            _tidy(path, copy, fresh, old, force=force)
    return size + path.stat().st_size


def saved_size(model: ModelProto, *, external: bool) -> int:
    """Return the bytes that `save_model` writes, weights included: at most, where these go to a file whose name counts.

    Args:
        model: The model.
        external: Whether its weights lay in other files before.
    """
    stored = [tensor for graph in all_graphs(model) for tensor in graph.initializer]
    # Protobuf writes a message to find its size, so it is asked once.
    message, weights = model.ByteSize(), 0
    if not external and not any(map(is_reference, stored)) and message <= MESSAGE_LIMIT:
        return message
    for tensor in stored:
        part, raw = FileSlice.of(tensor), len(tensor.raw_data)
        if part is not None:
            weights += -weights % PAGE + part.length
        elif raw >= EXTERNAL_FROM:
            weights, message = weights + raw, message - raw
        else:
            continue
        message += REFERENCE
    return message + weights


def _write_weights(file: IO[bytes], model: ModelProto, name: str) -> None:
    """Write the larger weights of a model into a file, and let the model refer to it by a name."""
    for tensor in (tensor for graph in all_graphs(model) for tensor in graph.initializer):
        if not is_reference(tensor) and len(tensor.raw_data) < EXTERNAL_FROM:
            continue
        if is_reference(tensor):
            file.write(bytes(-file.tell() % PAGE))
        offset = file.tell()
        for piece in pieces(tensor):
            file.write(piece)
        FileSlice(Path(name), offset, file.tell() - offset).give_to(tensor)


def _give_names(path: Path, new_main: Path, new_weights: Path, fresh: Path) -> None:
    """Let new weights and then the new model have their names; neither has one if something fails."""
    replaced = False
    try:
        new_weights.rename(fresh)
        flush_folder(path.parent)
        new_main.replace(path)
        replaced = True
    finally:
        if not replaced:
            fresh.unlink(missing_ok=True)


def _tidy(path: Path, model: ModelProto, fresh: Path, old: tuple[Path, ...], *, force: bool) -> None:
    """Remove the weights of the model that was there, and give their name to the new ones."""
    beside = weights_beside(path)
    spare: Path | None = None
    try:
        flush_folder(path.parent)
        for file in (*old, *([beside] if force else [])):
            file.unlink(missing_ok=True)
        beside.hardlink_to(fresh)
        spare = beside
        for tensor in (tensor for graph in all_graphs(model) for tensor in graph.initializer):
            part = FileSlice.of(tensor)
            if part is not None:
                FileSlice(Path(beside.name), part.offset, part.length).give_to(tensor)
        with new_file(path) as (main, new_main):
            main.write(model.SerializeToString())
            flush(main)
            new_main.replace(path)
            spare = fresh
        flush_folder(path.parent)
    except (OSError, OutputError) as error:
        _LOG.debug("%s: its weights keep the name %s: %s", path, fresh.name, error)
    finally:
        # The model names one of the two, and is whole.
        if spare is not None:
            with contextlib.suppress(OSError):
                spare.unlink()

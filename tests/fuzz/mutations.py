"""Changes to valid files that keep most of their structure: of protobuf fields, JSON values, members of archives."""

from __future__ import annotations

import io
import json
import random
import zipfile
from typing import Any

from google.protobuf.message import DecodeError, Message
from onnx import ModelProto

__all__ = ["mutate_archive", "mutate_bytes", "mutate_json", "mutate_model"]

NUMBERS = (0, 1, -1, 2, 7, 8, 16, 17, 99, 255, 2**31 - 1, 2**31, -(2**31), 2**32, 2**40, 2**62, 2**63 - 1, -(2**63))
TEXTS = ("", ".", "..", "../x", "/etc/passwd", "x", "w1", "y", "a" * 300, "\x00", "\x1b[2J", "9" * 30, "-1", "1e9", "é")
OPS = ("Conv", "Constant", "If", "Loop", "Identity", "ReduceMax", "Reshape", "Foo", "Gemm", "Concat", "ConstantOfShape")


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Flip, cut, double or insert bytes."""
    out = bytearray(data or b"\0")
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        place = rng.randrange(len(out)) if out else 0
        match rng.randrange(5):
            case 0 if out:
                out[place] = rng.randrange(256)
            case 1 if out:
                out[place] ^= 1 << rng.randrange(8)
            case 2:
                del out[place : place + rng.choice((1, 2, 8, 64))]
            case 3:
                out[place:place] = out[place : place + rng.choice((1, 4, 32))]
            case _:
                out[place:place] = rng.randbytes(rng.choice((1, 2, 4, 8)))
    return bytes(out)


def mutate_model(data: bytes, rng: random.Random) -> bytes:
    """Change a few fields of a model, wherever they are."""
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError:
        return mutate_bytes(data, rng)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        _change(_some_message(model, rng), rng)
    try:
        out = model.SerializeToString()
    except (ValueError, UnicodeEncodeError):
        return data
    return mutate_bytes(out, rng) if rng.random() < 0.1 else out


def _some_message(message: Message, rng: random.Random) -> Message:
    """Walk down a random way."""
    while True:
        below: list[Message] = []
        for field, value in message.ListFields():
            if field.type == field.TYPE_MESSAGE:
                below += [value] if isinstance(value, Message) else list(value)
        if not below or rng.random() < 0.15:
            return message
        message = rng.choice(below)


def _change(message: Message, rng: random.Random) -> None:
    fields = message.DESCRIPTOR.fields
    present = [field for field, _ in message.ListFields()]
    field = rng.choice(present) if present and rng.random() < 0.7 else rng.choice(fields)
    value: Any = getattr(message, field.name)
    try:
        if isinstance(value, Message):
            rng.choice((lambda: message.ClearField(field.name), value.SetInParent))()
        elif hasattr(value, "append") or hasattr(value, "add"):
            _change_list(field, value, rng)
        else:
            setattr(message, field.name, _scalar(field, value, rng))
    except (ValueError, TypeError):
        # Not every number fits every field.
        return


def _change_list(field: Any, values: Any, rng: random.Random) -> None:
    action = rng.randrange(4)
    if field.type == field.TYPE_MESSAGE:
        if values and action == 0:
            del values[rng.randrange(len(values))]
        elif values and action == 1:
            values.add().CopyFrom(rng.choice(values))
        elif values and action == 2:
            values.insert(0, values.pop())
        else:
            _change(values.add(), rng)
    elif values and action == 0:
        del values[rng.randrange(len(values))]
    elif values and action in {1, 2}:
        place = rng.randrange(len(values))
        values[place] = rng.choice(values) if action == 1 else _scalar(field, values[place], rng)
    else:
        values.append(_scalar(field, None, rng))


def _scalar(field: Any, before: Any, rng: random.Random) -> Any:
    if field.type == field.TYPE_STRING:
        return rng.choice(OPS if field.name == "op_type" else TEXTS)
    if field.type == field.TYPE_BYTES:
        return mutate_bytes(before or b"", rng)
    if field.type in {field.TYPE_FLOAT, field.TYPE_DOUBLE}:
        return rng.choice((0.0, -1.0, 1e30, float("nan"), float("inf")))
    if field.type == field.TYPE_ENUM:
        return rng.choice([item.number for item in field.enum_type.values])
    return rng.choice(NUMBERS)


def mutate_json(data: bytes, rng: random.Random) -> bytes:
    """Change a few values of a document."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return mutate_bytes(data, rng)
    for _ in range(rng.choice((1, 1, 2, 4))):
        document = _changed(document, rng)
    out = json.dumps(document).encode()
    return mutate_bytes(out, rng) if rng.random() < 0.2 else out


def _changed(value: Any, rng: random.Random) -> Any:
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        changed = dict(value)
        if rng.random() < 0.15:
            changed[rng.choice((*TEXTS, "0", "1", "3"))] = changed.pop(key)
        else:
            changed[key] = _changed(value[key], rng)
        return changed
    if isinstance(value, list) and value and rng.random() < 0.8:
        place = rng.randrange(len(value))
        inserted = [_changed(value[place], rng)] if rng.random() < 0.8 else []
        return value[:place] + inserted + value[place + 1 :]
    other = (None, True, [], {}, [[]], 1.5, float("nan"), 1e308, "0", "heads", 10**30)
    return rng.choice((*other, rng.choice(NUMBERS), rng.choice(TEXTS)))


def mutate_archive(data: bytes, rng: random.Random) -> bytes:
    """Change the bytes of an array or archive, or those of a member before it is packed."""
    if not data.startswith(b"PK") or rng.random() < 0.3:
        return mutate_bytes(data, rng)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {info.filename: archive.read(info) for info in archive.infolist() if info.file_size < 1 << 20}
    except Exception:
        return mutate_bytes(data, rng)
    name = rng.choice(list(members) or ["x.npy"])
    members[name] = mutate_bytes(members.get(name, b""), rng)
    if rng.random() < 0.2:
        members[rng.choice(("y.npy", "x", "z", "../x.npy"))] = members.pop(name)
    buffer = io.BytesIO()
    method = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA))
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for key, content in members.items():
            archive.writestr(key, content)
    return buffer.getvalue()

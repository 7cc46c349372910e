"""Names of classes, and which were asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from onnxpfp.data.class_names import classes_asked_for, names_in_metadata, read_class_names
from onnxpfp.errors import OptionError
from onnxpfp.options.classes import check_class_axes, check_classes, class_tokens

NAMES = ("cat", "dog", "bird", "5")


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        ("0,2", (0, 2)),
        ("2,0,0-1", (0, 1, 2)),
        (" 1 , bird", (1, 2)),
        ([3, "cat"], (0, 3)),
        ([2], (2,)),
    ],
)
def test_numbers_ranges_and_names_name_classes(asked: Any, kept: tuple[int, ...]) -> None:
    assert classes_asked_for(asked, 4, NAMES) == kept


def test_a_name_of_digits_is_a_number() -> None:
    with pytest.raises(OptionError, match="there are 4 classes"):
        classes_asked_for("5", 4, NAMES)
    assert class_tokens("5-9") == [range(5, 10)]


@pytest.mark.parametrize(
    ("names", "message"),
    [((), "is no number, and no names are known"), (NAMES, "is the name of no class")],
)
def test_an_unknown_name_is_told(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        classes_asked_for("cow", 4, names)


def test_names_that_hold_an_unknown_one_are_shown_first() -> None:
    with pytest.raises(OptionError) as failure:
        classes_asked_for("face", 4, ("FEET", "FACE_MALE", "hand", "FACE_FEMALE"))
    assert failure.value.hint == "close names: FACE_MALE, FACE_FEMALE"


@pytest.mark.parametrize("asked", ["", "1,,2", [], "9-5"])
def test_lists_that_cannot_be_meant_are_refused(asked: Any) -> None:
    with pytest.raises(OptionError, match="--keep-classes"):
        check_classes("--keep-classes", asked)


@pytest.mark.parametrize("text", ["y", "y:", ":1", "y:1:", "y:one"])
def test_axes_that_cannot_be_meant_are_refused(text: str) -> None:
    with pytest.raises(OptionError, match="OUTPUT:AXIS"):
        check_class_axes("--class-axis", [text])


def test_names_with_colons_and_negative_axes_are_axes() -> None:
    check_class_axes("--class-axis", ["y:1", "a:0:-1", "y:1:4:80", "y:-1:4"])


def test_a_file_has_one_name_a_line(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("cat\n dog \n\nbird\n")
    assert read_class_names(path) == ("cat", "dog", "bird")
    assert read_class_names(["cat", "dog"]) == ("cat", "dog")


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "holds no names"), (b"a\na\n", "stands there twice"), (b"\xff\xfe", "as a text")]
)
def test_files_of_no_names_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes(content)
    with pytest.raises(OptionError, match=message):
        read_class_names(path)
    with pytest.raises(OptionError, match="cannot be read"):
        read_class_names(tmp_path / "missing.txt")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("{0: 'cat', 1: 'dog'}", ("cat", "dog")),
        ("['cat', 'dog']", ("cat", "dog")),
        ("{1: 'cat'}", ()),
        ("{0: ", ()),
        ("cat", ()),
        ("__import__('os')", ()),
        ("3", ()),
    ],
)
def test_metadata_is_read_as_far_as_it_is_a_list_of_names(text: str, names: tuple[str, ...]) -> None:
    assert names_in_metadata({"names": text}) == names
    assert names_in_metadata({}) == ()

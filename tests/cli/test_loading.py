"""No garbage is collected while modules are loaded, and afterwards as before."""

from __future__ import annotations

import gc

import pytest

from onnxpfp.cli.loading import loading


def test_no_garbage_is_collected_meanwhile() -> None:
    assert gc.isenabled()
    with loading():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_it_is_collected_again_where_loading_fails() -> None:
    with pytest.raises(ImportError), loading():
        raise ImportError("gone")
    assert gc.isenabled()


def test_who_collects_none_goes_on_so() -> None:
    gc.disable()
    try:
        with loading():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()

"""Puts this folder on the path: the tests of several packages share `nets` and `support`."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("support")

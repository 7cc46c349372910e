"""Puts this folder on the path: the tests of several packages share `nets`."""

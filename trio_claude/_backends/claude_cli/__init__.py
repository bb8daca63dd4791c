"""Turns on the ``claude`` program."""

from .backend import CLIBackend as CLIBackend

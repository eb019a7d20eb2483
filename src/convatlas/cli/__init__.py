"""The command line: one verb a file, which parses, calls and prints. Nothing imports it."""

from convatlas.cli.app import main

__all__ = ["main"]

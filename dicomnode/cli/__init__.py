"""The command `dicomnode`."""

from dicomnode.cli.commands import main

__all__ = ["main"]

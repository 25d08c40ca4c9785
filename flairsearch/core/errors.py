"""What can go wrong, as one line each: found - where - what to do."""

from __future__ import annotations

from collections.abc import Callable


class FlairSearchError(Exception):
    """Base of every error a caller may expect; its text is one line that says what to do.

    parameter: the name of the parameter that is wrong, as Python has it. The text begins with it; a caller that knows
    the parameter by another name, as the command line does, writes the text with `named`.
    """

    def __init__(self, message: str, parameter: str | None = None) -> None:
        super().__init__(message)
        self.message, self.parameter = message, parameter

    def __str__(self) -> str:
        return self.named(lambda parameter: parameter)

    def named(self, name_of: Callable[[str], str]) -> str:
        """The text with the parameter as `name_of` calls it."""
        return self.message if self.parameter is None else f"{name_of(self.parameter)}: {self.message}"


class WeightsError(FlairSearchError):
    """A model file that is missing, damaged, of another shape, or unsafe to read."""


class PictureError(FlairSearchError):
    """A file that is not a picture we can decode."""


class StoreError(FlairSearchError):
    """An index that is missing, damaged, locked, or of another format or model."""


class UsageError(FlairSearchError):
    """A request that makes no sense as it stands (the command line exits with 2)."""

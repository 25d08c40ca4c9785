"""The exceptions of flairsearch. The text of each is one line: what is wrong, where, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable


class FlairSearchError(Exception):
    """Base class of all errors that a caller may expect; its text is one line that says what to do.

    parameter: the Python name of the parameter that is wrong, or None. The text begins with this name. The command line
    and HTTP have other names for some parameters; they get their text from `named`.
    """

    def __init__(self, message: str, parameter: str | None = None) -> None:
        super().__init__(message)
        self.message, self.parameter = message, parameter

    def __str__(self) -> str:
        return self.named(lambda parameter: parameter)

    def named(self, name_of: Callable[[str], str]) -> str:
        """Return the text, beginning with `name_of(parameter)` in place of the Python name."""
        return self.message if self.parameter is None else f"{name_of(self.parameter)}: {self.message}"


class WeightsError(FlairSearchError):
    """A model file is missing, damaged, of another shape, or unsafe to read."""


class PictureError(FlairSearchError):
    """A file is not a picture that can be decoded."""


class StoreError(FlairSearchError):
    """An index is missing, damaged, locked, or of another format or model."""


class UsageError(FlairSearchError):
    """A request makes no sense (the command line exits with status 2)."""

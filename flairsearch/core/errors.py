"""What can go wrong, as one line each: found - where - what to do."""

from __future__ import annotations


class FlairSearchError(Exception):
    """Base of every error a caller may expect; its text is one line that says what to do."""


class WeightsError(FlairSearchError):
    """A model file that is missing, damaged, of another shape, or unsafe to read."""


class PictureError(FlairSearchError):
    """A file that is not a picture we can decode."""


class StoreError(FlairSearchError):
    """An index that is missing, damaged, locked, or of another format or model."""


class UsageError(FlairSearchError):
    """A request that makes no sense as it stands (the command line exits with 2)."""

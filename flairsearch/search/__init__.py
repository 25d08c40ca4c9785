"""From a request to its hits."""

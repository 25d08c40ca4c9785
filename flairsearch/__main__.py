"""Runs the command line: `python -m flairsearch query ...`."""

from flairsearch.cli.main import main

main()

"""Runs the command line from a checkout: `python cli.py query ...`."""

from flairsearch.cli import main

main()

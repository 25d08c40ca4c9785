"""Runs the command line from a checkout: `python cli.py query ...`."""

from flairsearch.cli.main import main

main()

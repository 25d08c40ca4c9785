# make demo             sample photos -> index -> three queries -> pictures with the regions drawn
# make demo PHOTOS=DIR  the same on your own photos
# make test, make check the test suite; ruff and mypy
PYTHON ?= python3
PHOTOS ?=
BIN := .venv/bin

.PHONY: demo test check clean

demo: .venv/demo.done
	@$(BIN)/flairsearch demo $(if $(PHOTOS),--photos "$(PHOTOS)")

test: .venv/dev.done
	$(BIN)/python -m pytest

check: .venv/dev.done
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

.venv/bin/python:
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --upgrade pip

.venv/%.done: pyproject.toml | .venv/bin/python
	@echo "installing into .venv (a few minutes; PyTorch with its CUDA packages is 6 GB)"
	@$(BIN)/python -m pip install --quiet --editable ".[$*]"
	@touch $@

clean:
	rm -rf .venv demo build *.egg-info

# make demo             sample photos -> index -> three queries -> pictures with the regions drawn
# make demo PHOTOS=DIR  the same on your own photos
# make check            ruff, mypy, import-linter
# make test             the daily tests, in some three minutes on two cores
# make test-tiers       the others: a browser, kernels without a GPU, training in small, slow ones
# make test-all         everything, with every shape of the kernels and 300 examples of each property
PYTHON ?= python3
PHOTOS ?=
BIN := .venv/bin
TIERS := slow browser interpreter training
# Three processes keep two cores busy, as a third of their time is waiting for servers and timers. Each calculates with
# one thread: with two each, they wait for each other.
PYTEST := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile

.PHONY: demo test test-tiers test-all check clean

demo: .venv/demo.done
	@$(BIN)/flairsearch demo $(if $(PHOTOS),--photos "$(PHOTOS)")

test: .venv/dev.done
	$(PYTEST) -m "$(foreach tier,$(TIERS),not $(tier) and) not grid"

test-tiers: .venv/dev.done
	$(PYTEST) -m "($(firstword $(TIERS))$(foreach tier,$(wordlist 2,9,$(TIERS)), or $(tier))) and not grid"

test-all: .venv/dev.done
	$(PYTEST) -m "" --hypothesis-profile=night

check: .venv/dev.done
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.venv/bin/python:
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --upgrade pip

.venv/%.done: pyproject.toml | .venv/bin/python
	@echo "installing into .venv (a few minutes; PyTorch with its CUDA packages is 6 GB)"
	@$(BIN)/python -m pip install --quiet --editable ".[$*]"
	@touch $@

clean:
	rm -rf .venv demo build *.egg-info

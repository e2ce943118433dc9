# Every target sets up what it needs in .venv.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: demo test apart slow check docs bench clean

demo: $(READY)          ## the full pipeline on simulated hospitals
	$(BIN)/fedpretrain demo

test: $(READY)          ## quick tests, on two cores
	$(BIN)/python -m pytest -n 2 --dist loadfile

apart: $(READY)         ## a server and two hospitals as processes, over TLS on loopback
	$(BIN)/python -m pytest -n 0 -m slow tests/fedcore/deployment

slow: $(READY)          ## all tests that need no GPU, also those on real images
	$(BIN)/python -m pytest -m "not gpu"

check: $(READY)         ## format, lint, types, layers, spelling
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

docs: $(READY)          ## docs/recipes.md, from the recipes and signatures
	$(BIN)/python docs/make_reference.py

bench: $(READY)         ## measurements; the docstring of each file has the last result
	$(BIN)/python -m benchmarks.speed.views
	$(BIN)/python -m benchmarks.speed.throughput
	$(BIN)/python -m benchmarks.speed.workers
	$(BIN)/python -m benchmarks.speed.visit_overhead
	$(BIN)/python -m benchmarks.speed.simulation
	$(BIN)/python -m benchmarks.speed.sampling

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,bench]'
	touch $(READY)

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache

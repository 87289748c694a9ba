# `make demo` and `make test` need nothing done before them: both build the same .venv with pip.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
PYTEST ?= -q

.PHONY: demo test slow lint clean

demo: $(VENV)/installed
	$(BIN)/unireplknet demo

test: lint
# Training in a process of its own: beside the runtimes that the other tests load it has once crashed.
	$(BIN)/python -m pytest $(PYTEST) --ignore=tests/training
	$(BIN)/python -m pytest $(PYTEST) tests/training

slow: $(VENV)/installed
	$(BIN)/python -m pytest -m slow $(PYTEST)

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --progress-bar on --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache

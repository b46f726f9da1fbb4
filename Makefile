# `make demo` runs the demo, `make test` runs all checks. Both build the environment first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: env demo test lint format bench clean

env:
	@$(PYTHON) scripts/setup_environment.py --venv $(VENV)

demo: env
	$(BIN)/multimodal-perception demo --out out/demo

test: lint
	$(BIN)/python -m pytest

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: env
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(VENV).lock out build *.egg-info .mypy_cache .ruff_cache .pytest_cache

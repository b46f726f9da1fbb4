# `make demo` runs the demo, `make test` runs all checks, `make docs` builds the site in out/site. All build
# the environment first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: env demo test lint docs format clean

env:
	@$(PYTHON) scripts/setup_environment.py --venv $(VENV)

demo: env
	$(BIN)/multimodal-perception demo --out out/demo

test: lint docs
	$(BIN)/python -m pytest

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The variables turn off announcements about future versions of MkDocs.
docs: env
	NO_MKDOCS_2_WARNING=1 DISABLE_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --strict

format: env
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(VENV).lock out build *.egg-info .mypy_cache .ruff_cache .pytest_cache

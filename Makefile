# `make demo` runs the demo, `make test` runs all checks, `make docs` builds the site in out/site. All build
# the environment first. `make test-min` and `make test-ubuntu-24.04` run the tests with the versions of
# Ubuntu 22.04 on Python 3.10 and of Ubuntu 24.04 on Python 3.12, in environments of their own.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Processes of the tests, and the folders with tests marked `serial`.
WORKERS ?= 2
SERIAL := test/ros test/benchmarks # as in test/conftest.py
SCRIPTS := .ci/run docker/entrypoint.sh scripts/gpu_check.sh
# Failures of tests that were rerun are part of the output, see CONTRIBUTING.md.
PYTEST := $(BIN)/python -m pytest --rerun-show-tracebacks

# Extras without wheels for these versions, see scripts/setup_environment.py.
WITHOUT := train,view

.PHONY: env demo test test-min test-ubuntu-24.04 lint docs format clean

env:
	@$(PYTHON) scripts/setup_environment.py --venv $(VENV)

demo: env
	$(BIN)/multimodal-perception demo --out out/demo

# Most tests run in one process for each core; those marked `serial` need a computer without other load.
test: lint docs
	@status=0; \
	$(PYTEST) -n $(WORKERS) --dist loadgroup --no-loadscope-reorder -m "not serial" \
		|| status=1; \
	$(PYTEST) -m serial $(SERIAL) || status=1; \
	exit $$status

test-min: TESTED := ubuntu-22.04
test-ubuntu-24.04: TESTED := ubuntu-24.04
test-min test-ubuntu-24.04:
	@$(PYTHON) scripts/setup_environment.py --venv .venv-$(TESTED) --versions $(TESTED)
	.venv-$(TESTED)/bin/python -m pytest --without $(WITHOUT) $(TESTS)

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/yamllint --strict .
	@# Linters without a wheel, or without one for this computer, run where they are installed.
	@PATH="$(BIN):$$PATH"; \
	run() { if command -v "$$1" >/dev/null; then echo "$$*"; "$$@"; else echo "$$1: not installed"; fi; }; \
	run hadolint docker/Dockerfile && run shellcheck -e SC1091 $(SCRIPTS) && run actionlint

# The variables turn off announcements about future versions of MkDocs.
docs: env
	NO_MKDOCS_2_WARNING=1 DISABLE_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --strict

format: env
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(VENV).lock .venv-ubuntu-* out build *.egg-info .mypy_cache .ruff_cache .pytest_cache

# Two commands do everything from a fresh clone: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ifneq ($(wildcard ../shared/data),)
export SEMID_DATA ?= $(abspath ../shared/data)
endif

.PHONY: demo test lint browser clean

demo: $(VENV)/.installed
	$(BIN)/semid demo --out demo --json demo/compare.json

test: $(VENV)/.installed browser
	$(BIN)/python -m pytest -n auto --dist loadfile --cov --cov-report=term --cov-fail-under=90

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# For the tests that look at pages; without one they say so and are skipped.
browser:
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || \
		timeout 150 sh -c 'apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium' >/dev/null 2>&1 || \
		echo "No browser could be installed: the tests of pages in a browser are skipped."

# Torch first and alone, so that no other package's range brings another build of it.
# Nothing is compiled to bytecode: what is imported will be, at its first import.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --no-compile -c constraints.txt torch
	$(BIN)/pip install -q --no-compile -c constraints.txt -e '.[cpu,dev]'
	touch $@

clean:
	rm -rf $(VENV) demo build dist *.egg-info

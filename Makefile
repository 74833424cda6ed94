# The task runner: one verb each.  `make setup` comes first; everything then uses .venv, and importing rnnkernels
# rebuilds what has changed in csrc/.
VENV := .venv
BIN := $(VENV)/bin
CXX_FILES = $(shell git ls-files --cached --others --exclude-standard '*.cpp' '*.h' '*.inc' '*.cu' '*.cuh')

.PHONY: help setup build test slow check lint format bench docs asan tsan clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 18

setup:  ## make .venv with an editable install that rebuilds on import
	python3 -m venv $(VENV)
	$(BIN)/pip install -q 'scikit-build-core>=0.11' 'pybind11>=3.0' 'cmake>=3.21' ninja
	$(BIN)/pip install --no-build-isolation -Ceditable.rebuild=true -Cbuild-dir=build/editable -e '.[dev]'

build:  ## compile csrc/ now, rather than at the next import
	VIRTUAL_ENV=$(abspath $(VENV)) PATH=$(abspath $(BIN)):$$PATH cmake --build build/editable
	$(BIN)/python -c 'import rnnkernels'

test:  ## the tests, without the slow ones
	$(BIN)/pytest

slow:  ## the slow tests
	$(BIN)/pytest -m slow

check:  ## kernels against references on this machine
	$(BIN)/rnnkernels check

lint:  ## every linter, changing nothing
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/clang-format --dry-run --Werror $(CXX_FILES)
	$(BIN)/mypy
	$(BIN)/codespell

format:  ## rewrite Python and C++ in the project's style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/clang-format -i $(CXX_FILES)

bench:  ## references against kernels
	$(BIN)/rnnkernels bench

docs:  ## run every example of README.md and docs/, and look for broken links
	$(BIN)/pytest tests/test_docs.py

asan:  ## the tests under AddressSanitizer and UndefinedBehaviorSanitizer
	tests/sanitize/run address

tsan:  ## the tests under ThreadSanitizer
	tests/sanitize/run thread

clean:  ## remove what can be built again (.venv stays)
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache

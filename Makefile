# `make demo` and `make test` do all their set-up themselves, in .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q

.PHONY: demo test test-slow lint types format bench clean help

help:
	@echo "make demo        the whole pipeline on an embedded world, into runs/demo"
	@echo "make test        every test but the slow ones; make test-slow: those too slow for every day"
	@echo "make lint types  ruff, mypy"
	@echo "make bench       the benchmarks, each with its figures and a ratio"

$(VENV)/.core: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	$(PIP) install -e '.[dev]'
	@touch $@

demo: $(VENV)/.core
	$(BIN)/geo-subset demo --out runs/demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile  # most of a test's time is waiting for processes to start

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.dev
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/article_size.py

clean:
	rm -rf $(VENV) runs build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

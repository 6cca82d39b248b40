# `make demo` and `make test` do all their set-up themselves, in .venv.
PYTHON ?= python3
VENV ?= .venv
CLIP_VENV ?= .venv-clip
BIN := $(VENV)/bin
# pip compiles one file after the other, tests of packages among them: that takes a minute more.
# Some packages hold files that this Python cannot compile, and never imports.
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
COMPILE := $(BIN)/python -m compileall -qq -j 0 -x '/tests?/' $(VENV)/lib || true
# More side by side than a small machine has cores: most of a test's time is waiting for processes to start.
EVERY_DAY := -m "not slow and not ci and not faults and not clip_retrieval" -n 3

.PHONY: demo test test-ci test-slow test-faults test-clip-retrieval test-one-environment lint types format bench clean help

help:
	@echo "make demo        the whole pipeline on an embedded world, into runs/demo"
	@echo "make test        every test but the slow ones; make test-ci: those that CI runs besides;"
	@echo "                 make test-slow: those too slow for every day"
	@echo "make test-faults FAULT_TRIALS=25 CELLS='merge and driver'   kill -9 and full disks in every stage, at random"
	@echo "make test-clip-retrieval   against the real clip-retrieval (installs 7 GB into .venv-clip)"
	@echo "make test-one-environment  what \`make test\` runs, in that environment"
	@echo "make lint types  ruff, mypy"
	@echo "make bench       the benchmarks, each with its figures and a ratio"

$(VENV)/.core: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --no-compile -e .
	$(COMPILE)
	@touch $@

$(VENV)/.dev: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --no-compile -e '.[dev]'
	$(COMPILE)
	@touch $(VENV)/.core $@

demo: $(VENV)/.core
	$(BIN)/geo-subset demo --out runs/demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest $(EVERY_DAY)

test-ci: $(VENV)/.dev
	$(BIN)/python -m pytest -m "ci and not slow" -n 2

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow

# What may be set beside FAULT_TRIALS and CELLS: tests/faults/matrix/test_matrix.py tells.
test-faults: $(VENV)/.dev
	$(BIN)/python -m pytest -m faults -v $(if $(CELLS),-k "$(CELLS)") tests/faults/matrix

$(CLIP_VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(CLIP_VENV)
	$(CLIP_VENV)/bin/python -m pip --disable-pip-version-check -q install -e '.[clip-retrieval,dev]'
	@touch $@

test-clip-retrieval: $(CLIP_VENV)/.ready
	$(CLIP_VENV)/bin/python -m pytest -m clip_retrieval tests/clip_retrieval

test-one-environment: $(CLIP_VENV)/.ready
	$(CLIP_VENV)/bin/python -m pytest $(EVERY_DAY)

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
	$(BIN)/python benchmarks/embeddings.py --skip-faiss

clean:
	rm -rf $(VENV) $(CLIP_VENV) runs build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

# `make help` says what there is. Everything lives in .venv; the pinned stack is installed again only when its description changed.
SHELL := /bin/bash
PY := .venv/bin/python
READY := .venv/.installed
CANDIDATES := python3.13 python3.12 python3.11 python3

# The first that really runs (a pyenv shim may exist and fail), is recent enough and can make an environment.
PYTHON ?= $(shell for p in $(CANDIDATES); do \
	$$p -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { command -v $$p; break; }; done)

.PHONY: help sweep test bench chaos docs docs-check
help:
	@echo "make sweep   install what is needed and run experiments/quickstart.yaml: a search that a CPU-only machine finishes in minutes"
	@echo "make test    lint, types and tests"
	@echo "make chaos   accidents at random moments of small sweeps, resumed and compared with undisturbed ones; about an hour"
	@echo "make docs    the pages of docs/ as a site, in site/; make docs-check runs the first command of each, about fifteen minutes"
	@echo "make bench   speed, as ratios against a baseline measured in the same run"
	@echo "             PYTHON=/path/to/python chooses the interpreter that .venv is made from (3.11 or newer)"

sweep: $(READY)
	.venv/bin/rbnn sweep experiments/quickstart.yaml

test: $(READY)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0

chaos: $(READY)
	RBNN_CHAOS=1 $(PY) -m pytest tests/tune/test_chaos.py -v

docs: $(READY)
	$(PY) -m docs.recipe_options
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

docs-check: $(READY)
	RBNN_DOCS=1 $(PY) -m pytest tests/test_docs.py -v -k long_examples

bench: $(READY)
	$(PY) -m benchmarks

# PIP_CONSTRAINT is dropped: constraints.txt is the one description of the stack, and a second one could contradict it.
$(READY): pyproject.toml constraints.txt
	@if ! $(PY) -m pip --version >/dev/null 2>&1; then \
		python="$(PYTHON)"; \
		if [ -z "$$python" ]; then \
			echo "no Python 3.11 or newer with venv runs here (tried $(CANDIDATES)); install one, or name it: make PYTHON=/path/to/python" >&2; \
			exit 1; \
		fi; \
		echo "making .venv from $$python"; \
		"$$python" -m venv --clear .venv || exit 1; \
	fi
	@echo "installing the pinned stack into .venv (7 GB, some minutes the first time)"
	@quiet=-q; [ ! -t 1 ] || quiet=; env -u PIP_CONSTRAINT $(PY) -m pip install $$quiet -c constraints.txt -e '.[tune,dali,dev,deploy,dashboard,docs]'
	@touch $@

# Every target does its own set-up: on a fresh machine with Python >= 3.11 and make, `make test` is enough.
#
#   PYTHON=python3.12   the interpreter to build the environment with (default: the first one found)
#   CONSTRAINTS=        install the newest versions in place of those that the tests ran with
#   TORCH=cpu           torch without CUDA, which is most of the download; from TORCH_INDEX, an index of such wheels
#   WORKERS=4           test processes (default 2)
#   SPACE=glit-micro    the space of the demo

PYTHON ?=
CONSTRAINTS ?= constraints.txt
SPACE ?=
TORCH ?=
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
CANDIDATES := $(if $(PYTHON),$(PYTHON),python3 python3.13 python3.12 python3.11)
PINS := $(if $(CONSTRAINTS),-c $(CONSTRAINTS))

# Where this is set (containers often do), every process would compile torch's sources again, for seconds each.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install check test test-slow demo docs package bench constraints clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z-]+):.*## /  make \1@/' | tr '@' '\t' | expand -t 20

install: $(INSTALLED) ## build .venv with hwnas and its tools

$(INSTALLED): pyproject.toml $(CONSTRAINTS)
	@test -x $(BIN)/python || { \
	  for python in $(CANDIDATES); do \
	    if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then found=$$python; break; fi; \
	  done; \
	  if [ -z "$${found:-}" ]; then \
	    echo "error: hwnas needs Python 3.11 or newer" >&2; \
	    echo "  got     none among: $(CANDIDATES)" >&2; \
	    echo "  try     make install PYTHON=/path/to/python3.12" >&2; \
	    exit 1; \
	  fi; \
	  if ! $$found -c 'import ensurepip, venv' >/dev/null 2>&1; then \
	    echo "error: $$found has no venv module, which builds the environment" >&2; \
	    echo "  try     apt install python3-venv (Debian, Ubuntu), or a Python from python.org" >&2; \
	    exit 1; \
	  fi; \
	  echo "building $(VENV) with $$($$found --version)"; \
	  $$found -m venv $(VENV); \
	}
	$(BIN)/python -m pip install --quiet uv $(PINS)
	@case "$(TORCH)" in ''|cpu) ;; *) echo "error: TORCH must be cpu, or left out" >&2; exit 1;; esac
	$(if $(filter cpu,$(TORCH)),$(BIN)/uv pip install --python $(BIN)/python --no-deps --index-url $(TORCH_INDEX) torch torchvision $(PINS))
	$(BIN)/uv pip install --python $(BIN)/python --editable '.[dev]' $(PINS)
	@touch $@

check: $(INSTALLED) ## style, types and architecture
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: $(INSTALLED) ## the tests that take seconds
	$(BIN)/pytest -n $(WORKERS)

test-slow: $(INSTALLED) ## the tests that take minutes
	$(BIN)/pytest -n $(WORKERS) -m slow

demo: $(INSTALLED) ## the whole of it, small, on this CPU, in minutes; SPACE=glit-micro for another family
	$(BIN)/hwnas demo $(if $(SPACE),--space $(SPACE))

docs: $(INSTALLED) ## build the documentation as a site, in site/; warnings are errors
	$(BIN)/uv pip install --python $(BIN)/python --quiet --editable '.[docs]' $(PINS)
	PYTHONPATH=. $(BIN)/python docs/site.py build/docs
	$(BIN)/mkdocs build --strict

package: $(INSTALLED) ## build wheel and source distribution in dist/, and check them
	rm -rf dist
	$(BIN)/uv build --quiet --out-dir dist .
	$(BIN)/uv tool run twine check --strict dist/*

bench: $(INSTALLED) ## run every script in benchmarks/
	@found=; for script in benchmarks/*.py; do \
	  test -e "$$script" || continue; \
	  found=yes; echo "== $$script"; $(BIN)/python -m "benchmarks.$$(basename "$$script" .py)" || exit 1; \
	done; test -n "$$found" || { echo "error: there are no scripts in benchmarks/" >&2; exit 1; }

constraints: $(INSTALLED) ## write constraints.txt from what .venv holds
	{ echo "# The versions that the tests ran with: $$($(BIN)/python --version), $$(uname -sm). Made by make constraints."; \
	  $(BIN)/uv pip freeze --python $(BIN)/python --exclude-editable \
	  | grep -E '^[A-Za-z0-9._-]+==' | grep -vE '^(hwnas|pip)==' | sed -E 's/\+.*//'; } > $(VENV)/constraints.new
	mv $(VENV)/constraints.new constraints.txt
	@touch $(INSTALLED)

clean: ## remove caches and builds; .venv stays
	rm -rf build dist site .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find hwnas tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

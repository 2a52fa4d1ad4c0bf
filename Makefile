# Everything starts here: `make run` shows the node at work beside a real BEAM, `make test` runs all tests.
# Both do all the set-up first, and only what is not done yet. `make help` lists the rest.
#
#   PYTHON=python3.12     which Python the virtual environment is made with (3.11 or newer)
#   PYTEST_ARGS="-k epmd" more arguments for pytest
#   JOBS=4                how many files of tests run at a time; most of them wait for processes, so more than cpus (0: one by one)

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.14; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
PYTEST_ARGS ?=
JOBS ?= 4

VENV := .venv
PY := $(VENV)/bin/python
STAMPS := $(VENV)/stamps
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# What the extensions are built from, as in setup.py.
SOURCES := $(wildcard csrc/etf/*.[ch] csrc/pore/*.[ch] csrc/include/*.h csrc/ffi/*.[cp]*)

.PHONY: help run test test-xen lint format bench java build erl clean distclean
.DELETE_ON_ERROR:

help:
	@echo 'make run     set up, then a Python node and a real BEAM talk to each other, step by step'
	@echo 'make test    set up, then all tests (PYTEST_ARGS="-k ..." for some)'
	@echo 'make test-xen  only the tests on a Xen that is booted under qemu, some minutes (they are part of make test)'
	@echo 'make erl     the OTP application straw in erl/'
	@echo 'make java    the JDK and Jinterface, for the tests of a Java node (large)'
	@echo 'make lint    ruff, mypy --strict, pyright'
	@echo 'make format  ruff format'
	@echo 'make bench   the benchmarks, beside other peers'
	@echo 'make build   only the set-up: $(VENV) with the extensions and the extras'
	@echo 'make clean   what was built; make distclean: the virtual environment too'

run: build
	$(PY) -m node demo

test: build
	@tools/debian.sh test
	@tools/debian.sh xen
	@$(MAKE) --no-print-directory erl
	$(PY) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

# Only the scenarios of domains, here and on a Xen that is booted under qemu; what its console said is in build/xen.
test-xen: build
	@tools/debian.sh xen
	@$(MAKE) --no-print-directory erl
	$(PY) -m pytest tests/xen $(PYTEST_ARGS)

# The BEAM's side. Without OTP's compiler its tests skip, and say so.
erl:
	@if command -v erlc >/dev/null; then $(MAKE) --no-print-directory -C erl; else echo "no erlc: erl/ is not built"; fi

lint: build
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(VENV)/bin/basedpyright

format: build
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

bench: $(STAMPS)/bench
	@tools/debian.sh test
	$(PY) benchmarks/run.py

java:
	@tools/debian.sh java

build: $(STAMPS)/extensions

$(STAMPS)/python:
	@[ -n "$(PYTHON)" ] || { echo "Python 3.11 or newer is needed; found: $$(python3 --version 2>&1). Give one by PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is $$($(PYTHON) --version 2>&1); Python 3.11 or newer is needed" >&2; exit 1; }
	@PYTHON='$(PYTHON)' tools/debian.sh build
	$(PYTHON) -m venv $(VENV)
	@mkdir -p $(STAMPS) && touch $@

# The packages we need and this tree itself, editable; builds the extensions too.
$(STAMPS)/packages: pyproject.toml setup.py $(STAMPS)/python
	$(PY) -m pip install -q 'setuptools>=77' 'cffi>=1.16' wheel
	$(PY) -m pip install -q --no-build-isolation -e '.[beam,cli,test]'
	@touch $@

$(STAMPS)/extensions: $(STAMPS)/packages $(SOURCES)
	$(PY) setup.py -q build_ext --inplace
	@touch $@

# One by one: a peer that does not build here is only not measured.
$(STAMPS)/bench: $(STAMPS)/extensions
	for peer in $$($(PY) -c 'import tomllib; \
		print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["bench"])'); do \
		$(PY) -m pip install -q "$$peer" || echo "$$peer does not install here: not measured"; done
	@touch $@

clean:
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis $(STAMPS)/extensions
	rm -f node/*.so pores/*.so
	$(MAKE) --no-print-directory -C erl clean
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)

# make demo · make test · make check · make bench, on a fresh machine with Python >= 3.11.
PYTHON ?= python3
PY := .venv/bin/python
INSTALLED := .venv/.installed
VERSION := -c 'import sys; print(sys.version_info >= (3, 11), sys.version_info[:2])' 2>&1

# A .venv whose Python does not run, is too old, or is not the one that is asked for is made anew.
IS := $(if $(wildcard $(PY)),$(shell $(PY) $(VERSION)))
ifneq ($(origin PYTHON),file)
WANTED := $(shell $(PYTHON) $(VERSION))
else
WANTED := $(IS)
endif
ifneq ($(firstword $(IS)) $(IS),True $(WANTED))
.PHONY: $(INSTALLED)
CLEAR := --clear
endif

.PHONY: demo test check bench clean
.DELETE_ON_ERROR:

$(INSTALLED): pyproject.toml integrations/fastapi/pyproject.toml integrations/flask/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mlguard needs Python 3.11 or later: make PYTHON=python3.12")'
	@echo "Setting up .venv (about a minute the first time; evidently brings many packages)"
	$(PYTHON) -m venv $(CLEAR) .venv
	$(PY) -m pip install --quiet --upgrade "pip>=25.1"
	$(PY) -m pip install --quiet --editable '.[drift]' --editable integrations/fastapi --editable integrations/flask --group dev
	@touch $@

demo: $(INSTALLED)
	$(PY) -m examples.demo $(ARGS)

# In parallel, by as many processes as pay for what ARGS names; ARGS='-n 0' for one, ARGS=tests/core.
# Bytecode is kept, whatever the shell says: the servers of the tests import the same modules.
test: export PYTHONDONTWRITEBYTECODE =
test: $(INSTALLED)
	$(PY) -m pytest -n auto --dist loadgroup --no-loadscope-reorder $(ARGS)

check: $(INSTALLED)
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	.venv/bin/lint-imports
	$(PY) -m deptry .
	cd integrations/fastapi && ../../$(PY) -m deptry .
	cd integrations/flask && ../../$(PY) -m deptry .

bench: $(INSTALLED)
	$(PY) -m benchmarks $(ARGS)

clean:
	rm -rf .venv

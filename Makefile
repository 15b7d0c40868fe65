PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-faults lint

demo: .venv/package
	$(BIN)/rvm demo

# A file's tests stay together, because they share what is slow to make.
test: .venv/test
	$(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile

# Also what is too slow for `make test`; ends with one table of all faults.
test-faults: .venv/test
	$(BIN)/python -m pytest tests/faults tests/hostile --override-ini=addopts=--import-mode=importlib --numprocesses=2

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Constraints make installs repeatable; a package index may be set in pip's own configuration.
.venv/package .venv/test .venv/dev: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--editable '.$(if $(filter-out package,$(notdir $@)),[$(notdir $@)])'
	touch $@

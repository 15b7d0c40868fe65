PYTHON ?= python3
BIN := .venv/bin
PIP := pip install --quiet --disable-pip-version-check
# A file's tests stay together, because they share what is slow to make. One process more than cores: some tests wait.
SUITE := pytest --numprocesses=$(shell expr $$(getconf _NPROCESSORS_ONLN) + 1) --maxprocesses=4 --dist=loadfile \
	--no-loadscope-reorder

# What XLA's compiler for GPUs loads, without a GPU; versions are in constraints.txt.
CUDA := jax-cuda13-plugin jax-cuda13-pjrt nvidia-cublas nvidia-cuda-nvcc nvidia-cuda-nvrtc nvidia-cuda-runtime \
	nvidia-cudnn-cu13 nvidia-nvjitlink

.PHONY: demo test test-long test-faults test-slurm test-newest test-oldest check-accelerators check-accelerators-quick \
	figures lint docs

demo: .venv/package
	$(BIN)/rvm demo

# The demo with three seeds; its figures and pictures go into README.md and docs/. Half an hour on two cores.
figures: .venv/package
	$(BIN)/python benchmarks/figures.py

test: .venv/test
	$(BIN)/python -m $(SUITE)

# What takes so long that `make test` leaves it out; CI runs it after that. What fails has a second try by itself: the
# launchers run many real processes against the clock of a simulated cloud.
LONG := -m 'long and not slow'
test-long: .venv/test
	$(BIN)/python -m $(SUITE) $(LONG) || $(BIN)/python -m pytest $(LONG) --last-failed --last-failed-no-failures=none

# Also what is too slow for both; ends with one table of all faults.
test-faults: .venv/test
	$(BIN)/python -m pytest tests/faults tests/hostile --override-ini=addopts=--import-mode=importlib --numprocesses=2

# launch/slurm.sh and `rvm train` on a real Slurm of two pretended nodes, in about three minutes. Skipped, with the reason,
# where Slurm's Debian packages are missing and cannot be installed.
test-slurm: .venv/test
	tests/slurm/install.sh
	$(BIN)/python -m $(SUITE) tests/slurm -m slurm -rs --durations=0 --durations-min=1

# The newest of everything, also where Apache Beam wants older packages than a plain install takes (pip says so). What
# the suite passes with is noted: it is what a user is pointed to when a newer package breaks something.
test-newest:
	$(PYTHON) -m venv --clear .venv-newest
	.venv-newest/bin/python -m $(PIP) --editable '.[test]'
	.venv-newest/bin/python -m $(PIP) --upgrade --upgrade-strategy eager --editable .
	.venv-newest/bin/python -m $(SUITE) -m 'not slow and not slurm'
	.venv-newest/bin/python -m rvm_jax.tested_versions > rvm_jax/tested.txt

# Every package at the lower bound that pyproject.toml gives it; for the oldest Python, 3.11.
test-oldest:
	$(PYTHON) -m venv --clear .venv-oldest
	grep -oE '"[A-Za-z0-9_-]+>=[0-9.]+"' pyproject.toml | sed 's/"//g; s/>=/==/' > .venv-oldest/constraints.txt
	.venv-oldest/bin/python -m $(PIP) --constraint .venv-oldest/constraints.txt --editable '.[test]'
	.venv-oldest/bin/python -m $(SUITE) -m 'not slow and not slurm'

# Compiles every recipe for a GPU and a TPU that need not be there, as training does; see benchmarks/check_accelerators.py.
check-accelerators: .venv-cuda/ready .venv-tpu/ready
	.venv-cuda/bin/python benchmarks/check_accelerators.py $(FLAGS)

# S and a frozen L for one GPU.
check-accelerators-quick: .venv-cuda/ready
	.venv-cuda/bin/python benchmarks/check_accelerators.py --quick $(FLAGS)

.venv-cuda/ready .venv-tpu/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m $(PIP) --constraint constraints.txt --editable . $(if $(findstring cuda,$@),$(CUDA),libtpu)
	touch $@

# Needs ruff and mypy alone. Where the package's environment is there, mypy also reads the types of its libraries.
lint: .venv-lint/ready
	.venv-lint/bin/ruff check .
	.venv-lint/bin/ruff format --check .
	.venv-lint/bin/mypy $(if $(wildcard .venv/test),--python-executable $(BIN)/python)

.venv-lint/ready: constraints.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m $(PIP) --constraint constraints.txt ruff mypy
	touch $@

# The site, in site/; any warning is an error. docs/hooks.py makes the pages that are not written by hand.
docs: .venv/docs
	$(BIN)/mkdocs build --quiet

# Constraints make installs repeatable; a package index may be set in pip's own configuration.
.venv/package .venv/test .venv/docs: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m $(PIP) --constraint constraints.txt \
		--editable '.$(if $(filter-out package,$(notdir $@)),[$(notdir $@)])'
	touch $@

# `make demo`, `make test`, `make docs`: each makes its own environment in .venv first.
PYTHON ?= python3
BIN := .venv/bin
export OMP_NUM_THREADS ?= 2

.PHONY: demo test docs lint types contracts unit doctest bench-2d audit pins clean

demo: .venv/demo.done
	$(BIN)/advect train digits --method ot-cfm --out demo/digits --budget 2m
	$(BIN)/advect sample demo/digits -n 64 --out demo/digits/drawn.png

test: lint types contracts unit

lint: .venv/dev.done
	$(BIN)/ruff check src tests benchmarks docs examples
	$(BIN)/ruff format --check src tests benchmarks docs examples

types: .venv/dev.done
	$(BIN)/pyrefly check

contracts: .venv/dev.done
	$(BIN)/lint-imports

# Processes share the cores; one torch thread each. Doctests of the package run with the tests.
unit: .venv/dev.done
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal --doctest-modules

bench-2d: .venv/bench.done
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.transport_2d

# Known faults of the pinned packages; asks PyPI's database. Strict: a package that could not be asked about is no pass.
audit: .venv/dev.done
	@$(BIN)/pip-audit --strict --requirement constraints.txt --no-deps --disable-pip || { echo 'make audit: not passed.' \
	  'A fault is listed above; or, where a package "could not be audited", this network has no way to the database' \
	  'of faults at https://pypi.org/pypi (a mirror has packages only): ask again where there is one.'; exit 1; }

# What is installed becomes what is pinned. To move the pins: empty the file, `make clean pins`, `make test`.
pins: .venv/dev.done
	$(BIN)/python -m pip list --format=freeze --exclude-editable --exclude pip --exclude setuptools --exclude wheel > .venv/frozen
	{ grep '^#' constraints.txt && sed 's/+cpu$$//' .venv/frozen; } > .venv/pins
	mv .venv/pins constraints.txt

# The site, docs/_build/html/index.html. A warning is an error; figures are drawn anew where code has changed.
docs: .venv/docs.done
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

.venv/pip.done:
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch numpy
	touch $@

.venv/demo.done: .venv/pip.done pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[sklearn]'
	touch $@

.venv/dev.done: .venv/pip.done pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@ .venv/demo.done

.venv/bench.done: .venv/pip.done pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench]'
	touch $@

.venv/docs.done: .venv/pip.done pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	touch $@

clean:
	rm -rf .venv build docs/_build docs/_recorded src/*.egg-info .pytest_cache .ruff_cache .hypothesis

# The targets set up all they need: a virtual environment in .venv, once. `make test` is what CI runs.

PYTHON ?= python3

# Plain `torch` brings several gigabytes of CUDA packages on Linux where the index offers no other build. This release
# is one of which a CPU build can be preferred (a local find-links or index of CPU wheels). With a GPU, or to have the
# newest: make test TORCH=torch
TORCH ?= torch==2.13.0

# Test processes, and threads in each: two by one is fastest on two cores (three take 6 % longer).
WORKERS ?= 2
THREADS ?= 1
PYTEST_ARGS ?=
# Tests go out in their own order, half to each; the worker that ends first takes from what the other has left. A file
# stays together but for those few, so that its fixtures are made once: 8 min 28 s, and whole files 8 min 53 s.
SPREAD := --dist worksteal
# Hundreds of processes import the same files, and containers often forbid to keep what Python has compiled of them.
KEPT := PYTHONDONTWRITEBYTECODE=
# Timings mean nothing on a machine that is not idle.
BENCHMARKS ?= cli loop training sampling pixel_latent latents loader zero_memory

# What is installed from an index has the versions that were tested together. LATEST=1 takes the newest of the day
# instead, in an environment of its own; TORCH says which torch in both.
CONSTRAINTS := .ci/constraints.txt
LATEST ?=
VENV := $(if $(LATEST),.venv-latest,.venv)
INSTALL := $(VENV)/bin/python -m pip install --progress-bar off $(if $(LATEST),--upgrade --upgrade-strategy eager,-c $(CONSTRAINTS))

BIN := $(VENV)/bin
PLUGINS := $(patsubst %/pyproject.toml,./%,$(wildcard plugins/*/pyproject.toml conditioners/*/pyproject.toml))
EXTRA := $(patsubst %/pyproject.toml,./%,$(wildcard examples/*/pyproject.toml tests/*/pyproject.toml))
# The version of all distributions, which is in none of their pyproject.toml.
VERSION := ldm_core/catalog/release.py
METADATA := pyproject.toml $(PLUGINS:=/pyproject.toml) $(VERSION) $(CONSTRAINTS) $(if $(LATEST),newest)
# What is installed for running, and for developing; the stamps are newer than the metadata that they were made from.
RUN := $(VENV)/installed-run
DEV := $(VENV)/installed-dev
BUILD := .venv-build/installed
RELEASING := build twine

.PHONY: demo install browser test slow benchmark lint docs wheels release constraints newest
.DELETE_ON_ERROR:

# An environment for developing can run the demo as well.
demo: $(or $(wildcard $(DEV)),$(RUN))
	$(BIN)/ldm-run --first-stage vq_f4 --cond text --sampler ddim --out runs/demo

install: $(DEV)

# For the tests of pages in a real browser, which are skipped without: playwright and axe-core, by the plugin whose tests
# name them. The browser itself is the system's Chromium or Chrome.
browser: $(DEV)
	$(INSTALL) -e "./plugins/serve[test]"

test: $(DEV)
	$(KEPT) OMP_NUM_THREADS=$(THREADS) $(BIN)/python -m pytest -m "not slow and not benchmark" -n $(WORKERS) $(SPREAD) $(PYTEST_ARGS)

slow: $(DEV)
	$(BIN)/python -m pytest -m slow -s $(PYTEST_ARGS)

benchmark: $(DEV)
	@for name in $(BENCHMARKS); do echo "== $$name"; $(BIN)/python tests/benchmarks/bench_$$name.py; done

lint: $(DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# The documentation site, in build/site; a warning, such as for a link that leads nowhere, is an error. Needs no network.
docs: $(DEV)
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going docs build/site
	@echo build/site/index.html

wheels: $(BUILD)
	.venv-build/bin/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist . $(PLUGINS)
	@ls dist

# All that would be uploaded, built anew in dist/ and checked: one source archive for each distribution, and the wheel
# made of that. Uploading is left to a person.
release: $(BUILD)
	rm -rf dist
	.venv-build/bin/python -m pip install --progress-bar off -c $(CONSTRAINTS) $(RELEASING)
	@for project in . $(PLUGINS); do .venv-build/bin/python -m build --no-isolation --outdir dist $$project >/dev/null || exit 1; done
	.venv-build/bin/python -m twine check --strict dist/*
	@ls -l dist
	@echo "$$(ls dist/*.whl | wc -l) wheels and $$(ls dist/*.tar.gz | wc -l) source archives of version" \
	 "$$(sed -n 's/^VERSION = "\(.*\)"/\1/p' $(VERSION)); to upload them: twine upload dist/*"

# Renews the tested versions: the newest of the day are written down once all tests passed with them. The builds of torch
# are TORCH's to choose.
constraints:
	$(MAKE) browser test LATEST=1
	.venv-latest/bin/python -m pip install --progress-bar off $(RELEASING)
	(echo '# The versions that the tests passed with; make constraints renews this file.'; \
	 .venv-latest/bin/python -m pip freeze --all --exclude-editable | sed 's/+.*//' \
	 | grep -viE '^(pip|torch|torchvision|triton|nvidia.*|cuda.*)==') > $(CONSTRAINTS).new
	mv $(CONSTRAINTS).new $(CONSTRAINTS)

# All siblings by path in one call of pip, so that a name that is not published is never looked for in an index.
$(RUN): $(METADATA) | $(BIN)/python
	$(INSTALL) "$(TORCH)" -e ".[s3]" $(PLUGINS:%=-e %)
	touch $@

$(DEV): $(METADATA) $(EXTRA:=/pyproject.toml) | $(BIN)/python
	$(INSTALL) "$(TORCH)" -e ".[dev]" $(PLUGINS:%=-e %) $(EXTRA:%=-e %)
	touch $@

# Building needs hatchling alone.
$(BUILD): $(CONSTRAINTS)
	$(PYTHON) -m venv .venv-build
	.venv-build/bin/python -m pip install --progress-bar off -c $(CONSTRAINTS) hatchling
	touch $@

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

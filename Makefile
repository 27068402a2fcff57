# Everything a person or a build machine does here. `make` alone says what there is.
# Every target sets up what it needs (Debian packages by apt, .venv by pip with pinned hashes) and does nothing twice.

PYTHON ?= python3#  the interpreter that .venv is made from (3.11 or newer)
VENV ?= .venv
ARGS ?=#  handed on to pytest: make test-unit ARGS='-k draining -x'
IMAGE ?= ipvsproxy:dev

RIG := $(PYTHON) -m rig
BIN := $(VENV)/bin
TESTS := $(BIN)/python tests/run.py
READY := $(VENV)/.ready
COMPILED := $(VENV)/.compiled

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo shell test test-full lint type test-unit test-kernel test-api test-e2e test-nft bench bench-full image setup check lock \
	format clean system nftables

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  ARGS='...' goes to pytest; IPVSPROXY_RIG=native|uml|qemu chooses the kernel (make check tells)"

demo: setup ## watch a real kernel balance by each Service's scheduler: two nodes, real agents, real connections
	@$(RIG) run --timeout 900 -- $(CURDIR)/$(BIN)/python -m demo

shell: setup ## a shell inside the demonstration's cluster, with everything running
	@$(RIG) run --tty --timeout 86400 -- $(CURDIR)/$(BIN)/python -m demo --shell

test: setup nftables ## every tier: lint, types, unit, API, kernel, end to end; ends with the counts
	@$(TESTS) all -- $(ARGS)

test-full: setup nftables ## the same with all cells, crashes and soaks: long
	@$(TESTS) --full all -- $(ARGS)

lint: $(READY) ## style, docstrings and the layers between modules
	@$(TESTS) lint

type: $(READY) ## mypy, strict
	@$(TESTS) type

test-unit: $(READY) ## decisions, properties, scenarios: no kernel, no network
	@$(TESTS) unit -- $(ARGS)

test-api: $(READY) ## the Kubernetes source against a server that speaks the real protocol
	@$(TESTS) api -- $(ARGS)

test-kernel: setup ## the contract and the adapters, on a real kernel
	@$(TESTS) kernel -- $(ARGS)

test-e2e: setup ## nodes and pods in network namespaces, real packets
	@$(TESTS) e2e -- $(ARGS)

test-nft: setup nftables ## one node on a kernel with nftables, an emulated one where need be
	@$(TESTS) nft -- $(ARGS)

bench: setup ## how long things take, in some minutes; only the ratios of one run mean anything in a guest
	@$(RIG) run --timeout 1800 -- $(CURDIR)/$(BIN)/python -m bench $(ARGS)

bench-full: setup ## the same up to 20,000 Services, with a minute of each storm of changes: most of an hour
	@$(RIG) run --memory 3G --timeout 7200 -- $(CURDIR)/$(BIN)/python -m bench --full $(ARGS)

image: ## the container image, with docker or podman
	@engine=$$(command -v docker || command -v podman) || { echo "make image needs docker or podman" >&2; exit 1; }; \
	"$$engine" build -t $(IMAGE) .

setup: system $(READY) $(COMPILED) ## install what is missing, and nothing else

check: ## which kernel the tests and the demonstration use here, and why
	@$(RIG) check

format: $(READY) ## lay the code out
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

# The registry is the reader's to choose: no address of one is written into the files.
COMPILE = $(BIN)/pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras --no-header --no-annotate \
	--no-emit-index-url --no-emit-trusted-host --no-emit-find-links

lock: $(READY) ## pin the dependencies of pyproject.toml again, with hashes (ARGS='--upgrade' for newer ones)
	$(COMPILE) $(ARGS) --output-file requirements/run.txt pyproject.toml
	$(COMPILE) $(ARGS) --extra dev --constraint requirements/run.txt --output-file requirements/dev.txt pyproject.toml

clean: ## remove what was built here, .venv included
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info

# 98: no kernel with IPVS is possible here. The tests decide what that means: a failure with CI=true, else skipped.
system:
	@$(RIG) setup --program kubectl=kubernetes-client || [ $$? -eq 98 ]

# A second kernel, for a few tests only. Where it cannot be had they are skipped, and fail with CI=true.
nftables:
	@$(RIG) setup --nftables || echo "rig: going on without a kernel with nftables" >&2

$(READY): requirements/dev.txt pyproject.toml | system
	@echo "python: setting up $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--no-build-isolation -e .
	@touch $@

# Agents are started by the hundred, and many machines have PYTHONDONTWRITEBYTECODE: each would compile every module anew.
$(COMPILED): $(READY) $(shell find ipvsproxy testbed -name '*.py')
	@$(BIN)/python -m compileall -q ipvsproxy testbed
	@touch $@

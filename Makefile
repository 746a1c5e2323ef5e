# Two commands are all a newcomer needs: `make run` and `make test`; with a cluster in mind, `make demo`. Each does its own set-up.

PYTHON ?= python3
PORT   ?= 5000
VENV   ?= .venv
BIN    := $(VENV)/bin
LOCKS  := runtime dev server operator build
PYTEST_PARALLEL := $(BIN)/pytest --numprocesses auto --dist loadfile --no-loadscope-reorder
QUICK  := -m 'not backends and not endurance'
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.PHONY: help run setup setup-dev test coverage test-endurance test-backends e2e demo demo-down lint format crds reference manifests chart images lock clean

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: setup ## Run the quickstart registry on this machine (PORT=5000); Ctrl-C ends it
	@$(BIN)/registry-operator local up manifests/samples/quickstart.yaml --port $(PORT) --prove

setup: $(VENV)/.runtime ## Prepare .venv with all that the server and the operator need

setup-dev: $(VENV)/.dev ## Prepare .venv with the tools for tests and checks as well

test: setup-dev ## Check style, types and layers, then run the tests that need no other server's software
	@$(BIN)/python -m tests.toolchain ensure
	@$(MAKE) --no-print-directory lint
	@$(PYTEST_PARALLEL) $(or $(PYTEST),$(QUICK))

test-endurance: setup-dev ## Run the tests that take long: gigabytes, a hundred registries, a collector under fire
	@$(BIN)/python -m tests.toolchain ensure
	@$(PYTEST_PARALLEL) -m 'endurance and not backends'

coverage: setup-dev ## Run the tests of `make test` and report which lines of ours they run, which takes half as long again
	@$(BIN)/python -m tests.toolchain ensure
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m $(PYTEST_PARALLEL:$(BIN)/%=%) $(or $(PYTEST),$(QUICK))
	@$(BIN)/coverage combine --quiet && $(BIN)/coverage report --skip-covered --sort=cover | tail -n 40

e2e: setup-dev ## Run the end-to-end tests with real pods, in a cluster that is made for them
	@$(BIN)/python -m tests.toolchain ensure --suite e2e
	@$(BIN)/pytest --numprocesses 4 --dist loadscope $(if $(PYTEST),$(PYTEST),tests/e2e)

demo: setup-dev ## Show it all on a real cluster that stays, and the lines to go on by hand
	@$(BIN)/python -m tests.e2e.demo up

demo-down: setup-dev ## End what `make demo` has left
	@$(BIN)/python -m tests.e2e.demo down

test-backends: setup-dev ## Run the tests on object stores and database servers: S3, GCS, Azure, PostgreSQL, MariaDB
	@$(BIN)/python -m tests.toolchain ensure --suite backends
	@$(PYTEST_PARALLEL) -m backends

lint: setup-dev ## Check style, types, layers and that generated files are current
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/registry-operator crds --check crds
	$(BIN)/python -m manifests.generate --check
	$(BIN)/registry-server config reference --check docs/configuration.md

format: setup-dev ## Format the code
	$(BIN)/ruff check --fix --exit-zero .
	$(BIN)/ruff format .

crds: setup ## Write crds/ from the operator's types
	$(BIN)/registry-operator crds --write crds

reference: setup ## Write docs/configuration.md from the server's settings
	$(BIN)/registry-server config reference --write docs/configuration.md

manifests: crds setup-dev ## Write what is derived from the chart: its CRDs, manifests/install
	$(BIN)/python -m manifests.generate

chart: manifests ## Package the chart into dist/
	@$$($(BIN)/python -c 'from tests.toolchain import tool; print(tool("helm"))') package helm/regatta --destination dist

# BASE=debootstrap where no image registry is in reach; BUILDER=docker or buildah; OUT is the archives' folder.
images: ## Build the container images and say what they weigh (BASE=debootstrap, BUILDER=…, OUT=…)
	@$(PYTHON) -m images.build $(if $(BASE),--base $(BASE)) $(if $(BUILDER),--builder $(BUILDER)) $(if $(OUT),--out $(OUT))

lock: setup-dev ## Resolve the dependencies into requirements/ (UPGRADE=1 takes the newest of all)
	$(foreach lock,$(LOCKS),$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-header $(if $(UPGRADE),--upgrade) $(WITH_$(lock)) --output-file requirements/$(lock).txt &&) true

SERVER        := pyproject.toml --extra objectstore --extra sql
WITH_server   := $(SERVER)
WITH_operator := pyproject.toml --extra operator
WITH_runtime  := $(SERVER) --extra operator --group editable
WITH_dev      := $(SERVER) --extra operator --extra test --extra dev --group editable
WITH_build    := --group editable

clean: ## Remove what set-up and tests have left in the tree
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .coverage.* dist build

# The virtualenv is complete when its stamp is newer than the lock; an interrupted set-up leaves no stamp.
# Nobody waits for the compilation of what is never imported; the tests alone want all of it before they begin, since the
# warnings of a compilation are errors to them.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Regatta needs Python 3.11 or later; PYTHON=… names another")'
	@echo "==> creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.%: requirements/%.txt pyproject.toml | $(VENV)/bin/python
	@echo "==> installing the locked packages of requirements/$*.txt"
	@$(PIP) install --require-hashes --no-compile --progress-bar on -r requirements/$*.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@$(if $(filter dev,$*),$(BIN)/python -W ignore -m compileall -qq -j 0 $(VENV)/lib)
	@touch $@

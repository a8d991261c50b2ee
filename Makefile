# Every target sets itself up: the first one makes .venv, installs the project and builds the WASM guest.
#   make demo              an agent's snippet in a sandbox, and a hostile one
#   make test              the test suite; ARGS="-k pool -x" goes to pytest, JOBS=0 runs it in one process

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
GUEST := runtimes/wasm/guest.sha256
GUEST_SOURCES := $(wildcard runtimes/guest/*.py) runtimes/wasm/guest.wit runtimes/wasm/build.py
PROTOS := $(shell find proto -name '*.proto')
ARGS ?=
# Test processes: one more than there are cores, since tests wait as much as they work.
JOBS ?= $(shell echo $$(($$(nproc 2>/dev/null || echo 1) + 1)))
# Files with tests that run by themselves, unless ARGS names some: collecting all others once more takes long.
ALONE = $(if $(findstring tests/,$(ARGS)),,$(shell grep -rl --include='test_*.py' pytest.mark.alone tests))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo engines test soak lint types proto proto-check bench build clean

help: ## say what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(INSTALLED) $(GUEST) ## run an agent's snippet with tools, then a hostile one
	@$(BIN)/python examples/demo.py

engines: $(INSTALLED) $(GUEST) ## install and start what the tests need: Docker, gVisor, databases (Debian, as root)
	@.ci/services
	@.ci/engines

# tests/conftest.py has an order of files by how long they take; xdist's own is by how many tests are in them.
test: $(INSTALLED) $(GUEST) ## run the tests (ARGS="-k name" for some of them)
	@$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder -m "not alone" $(ARGS) || [ $$? -eq 5 ]
	@$(BIN)/python -m pytest -m alone $(ALONE) $(ARGS) || [ $$? -eq 5 ]

soak: $(INSTALLED) $(GUEST) ## call tools for a minute, and look for what is left or grows
	@TOOLEXEC_SOAK_SECONDS=60 $(BIN)/python -m pytest tests/sandbox/test_soak.py $(ARGS)

lint: $(INSTALLED) proto-check ## check style, import layers and generated code
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports

types: $(INSTALLED) ## check types, those of tests and examples too
	@$(BIN)/mypy
	@$(BIN)/mypy examples/*.py

proto: $(INSTALLED) ## write the stubs of proto/ again
	@$(call protoc,.)

proto-check: $(INSTALLED)
	@made=$$(mktemp -d) && trap 'rm -rf "$$made"' EXIT && $(call protoc,"$$made") && cd "$$made" && \
	  find . -type f | while read -r file; do \
	    diff -u "$(CURDIR)/$$file" "$$file" || { echo "$$file is not what proto/ gives; run: make proto" >&2; exit 1; }; \
	  done

bench: $(INSTALLED) $(GUEST) ## measure what docs/performance.md reports
	@$(BIN)/python benchmarks/run.py $(ARGS)

build: $(INSTALLED) $(GUEST) ## build the wheel and the source archive into dist/
	@$(BIN)/python -m build --outdir dist .

clean: ## remove everything that make made
	rm -rf $(VENV) dist build runtimes/wasm/guest.wasm $(GUEST) \
	  .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The guest is built when its sources changed; build.py compares contents, so a mere `git checkout` costs nothing.
$(GUEST): $(GUEST_SOURCES) $(INSTALLED)
	@$(BIN)/python runtimes/wasm/build.py
	@touch $@

$(INSTALLED): pyproject.toml hatch_build.py | $(BIN)/python
	@echo "installing toolexec and its tools into $(VENV); the first time also builds the guest (about 20 s)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --editable '.[all]' --group dev
	@touch $@

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not there; install Python 3.11 or newer, or name one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "toolexec needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) -V); name one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "$(PYTHON) cannot make virtual environments; on Debian and Ubuntu: sudo apt-get install python3-venv" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

define protoc
PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -I proto --python_out=$(1) --mypy_out=quiet:$(1) \
  --grpc_python_out=$(1) --mypy_grpc_out=quiet:$(1) $(PROTOS)
endef

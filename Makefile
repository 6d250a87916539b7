# make demo | serve | test | test-ci | test-all | clients | check | fix | bench | gpu-check | clean: each installs what it needs into .venv first.
PYTHON ?= python3
BIN := .venv/bin
# Half as many test processes again as there are cores, since many tests wait for a server or a browser.
WORKERS := $(shell $(PYTHON) -c 'import os; print(max(os.cpu_count() * 3 // 2, 2))' 2>/dev/null)
PAINTING := .venv/.ready-painting
SERVING := .venv/.ready-serving
TESTING := .venv/.ready-testing
# Python compiles what it imports when it first does; to compile everything takes as long as installing it. With
# nothing kept, each process would compile 10 seconds' worth of torch and diffusers again. What the tests import is
# compiled before them, since three processes that begin together would each compile all of it; UNUSED is not.
unexport PYTHONDONTWRITEBYTECODE
UNUSED := /(transformers/models|diffusers/pipelines|torch/(testing|_inductor|distributed)|sympy|ray/(rllib|data|train|tune|llm)|cfnlint|scipy|fontTools|matplotlib|tests)/
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt

.PHONY: demo serve test test-ci test-all test-programs test-krita clients check lint lint-page types fix bench bench-cluster gpu-check files-table install clean

demo: $(PAINTING)
	@$(BIN)/inpaint run docs/images/portrait.jpg --mask docs/images/portrait_eyes_mask.png \
	  --prompt "black sunglasses" --seed 1 --output demo-output/portrait.png --overwrite
	@echo "The painted picture: $(CURDIR)/demo-output/portrait.png (before: docs/images/portrait.jpg)"

serve: $(SERVING)
	$(BIN)/inpaint serve --open

# The quick tests, about a quarter of an hour on two cores.
test: $(TESTING)
	@sh tools/test_programs.sh --if-root
	$(BIN)/pytest -n $(WORKERS) -m "not slow"

# What CI runs: the quick tests, and those of the slow ones that are marked "gate".
test-ci: $(TESTING) clients
	@sh tools/test_programs.sh --if-root
	$(BIN)/pytest -n $(WORKERS) -m "not slow or gate"

# All tests, about 45 minutes: before a release, and after a change to what the slow ones show.
test-all: $(TESTING) clients
	@sh tools/test_programs.sh --if-root
	HYPOTHESIS_PROFILE=long $(BIN)/pytest -n $(WORKERS)

# Chromium, PostgreSQL and Redis, which some tests use: installed with apt, as root.
test-programs:
	@sh tools/test_programs.sh

# Krita (300 MB on disk), installed with apt as root, and the tests of the plugin in it, which otherwise are skipped.
test-krita: $(TESTING)
	@sh tools/test_programs.sh --krita
	INPAINT_TEST_KRITA=1 $(BIN)/pytest -n 0 tests/krita tests/inpaint/integrations

# Other projects' clients, each in an environment of its own, against which tests/server/clients tests the server.
CLIENTS := tests/server/clients
NODE_CLIENTS := $(CLIENTS)/node_modules/.package-lock.json

clients: $(patsubst $(CLIENTS)/requirements/%.txt,build/clients/%/.ready,$(wildcard $(CLIENTS)/requirements/*.txt))
	@if command -v npm > /dev/null; then $(MAKE) --no-print-directory $(NODE_CLIENTS); \
	  elif [ "$$CI" = true ]; then echo "the clients for Node.js are installed with npm, which is missing"; exit 1; \
	  else echo "npm is not installed: the clients for Node.js are not tested"; fi

# The lists are complete, so pip has nothing to resolve. One asks for a newer Python, for a part that is not used.
build/clients/%/.ready: $(CLIENTS)/requirements/%.txt | $(TESTING)
	@echo "Installing the client $* into build/clients"
	@$(PYTHON) -m venv --clear --without-pip build/clients/$*
	@$(BIN)/python -m pip --python build/clients/$* install --quiet --disable-pip-version-check --no-compile \
	  --no-deps --ignore-requires-python -r $<
	@touch $@

$(NODE_CLIENTS): $(CLIENTS)/package.json $(CLIENTS)/package-lock.json
	npm --prefix $(CLIENTS) ci --silent

check: lint types test

lint: $(TESTING) lint-page
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

# The page's JavaScript: tsc by its JSDoc, and eslint. The page itself needs no packages and no npm.
PAGE_CHECKS := tools/page/node_modules/.package-lock.json

lint-page:
	@if command -v npm > /dev/null; then $(MAKE) --no-print-directory $(PAGE_CHECKS) && npm --prefix tools/page run --silent lint; \
	  elif [ "$$CI" = true ]; then echo "the page's JavaScript is checked with npm, which is not installed"; exit 1; \
	  else echo "npm is not installed: the page's JavaScript is not checked"; fi

$(PAGE_CHECKS): tools/page/package.json tools/page/package-lock.json
	npm --prefix tools/page ci --silent

types: $(TESTING)
	$(BIN)/mypy

fix: $(TESTING)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# On a CPU with the demo model: about an hour. Each takes --help, and --device cuda where there is a GPU.
BENCHES := latency throughput near large serving simulate coldstart memory lossy samplers seams overhead server_overhead rejections soak storm

bench: $(TESTING)
	@for name in $(BENCHES); do echo "bench.$$name"; $(BIN)/python -m bench.$$name \
	  --json bench/results/$$(echo $$name | tr _ -)-cpu.json || exit 1; done
	$(BIN)/python -m bench.plots --output docs/images

# Beyond one machine, about 45 minutes; the second needs PostgreSQL. bench.chaos, as root, cuts hosts off.
bench-cluster: $(TESTING)
	$(BIN)/python -m bench.fleet --json bench/results/fleet-cpu.json
	$(BIN)/python -m bench.cluster --json bench/results/cluster-cpu.json

# Files of other tools, read by ours and by those tools, which are installed apart; the tables of docs/files.md.
# One reader comes without what it asks for: an older click, for a command line that is not used.
FOREIGN := build/foreign

files-table: $(FOREIGN)/.ready
	$(FOREIGN)/bin/python -m tools.files

$(FOREIGN)/.ready: tools/files/requirements.txt constraints.txt pyproject.toml
	$(PYTHON) -m venv $(FOREIGN)
	$(FOREIGN)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e . -r $<
	$(FOREIGN)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps sd-prompt-reader==1.3.5
	@touch $@

# The first half hour on a GPU, and what it showed; docs/cuda.md. DEVICE=cpu rehearses it.
DEVICE ?= cuda

gpu-check: $(TESTING)
	$(BIN)/python -m tools.gpu_check --device $(DEVICE)

install: $(TESTING)

# The pins are constraints.txt's. pip, not a resolver with its own index settings, so that a CPU build of
# torch that the machine offers is taken.
$(PAINTING): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "inpaint needs Python 3.11 or newer; try: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "Python's venv module is missing; on Debian or Ubuntu: apt install python3-venv"; exit 1; }
	@echo "Installing what painting needs into .venv: 1.3 GB (7 GB with the CUDA build of torch), a minute or more"
	@$(PYTHON) -m venv .venv
	@$(PIP) -e .
	@touch $(PAINTING)

$(SERVING): $(PAINTING)
	@$(PIP) -e '.[server]'
	@touch $(SERVING)

$(TESTING): $(PAINTING)
	@echo "Installing what the tests need, too: 1.5 GB, about two minutes"
	@$(PIP) -e '.[server,telemetry,cluster,postgres,redis,s3,mcp,dev]'
	@$(BIN)/python -m compileall -qq -j 0 -x '$(UNUSED)' .venv/lib || true
	@touch $(TESTING)

clean:
	rm -rf .venv tools/page/node_modules build/clients $(CLIENTS)/node_modules demo-output .mypy_cache .pytest_cache .ruff_cache

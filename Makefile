# make demo | test | check | fix | bench | bench-cluster | clean — each installs what it needs into .venv first.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test check lint types fix bench bench-cluster clean install

demo: $(READY)
	@$(BIN)/inpaint run docs/images/portrait.jpg --mask docs/images/portrait_patch_mask.png \
	  --prompt "a blue heart" --seed 4 --output demo-output/portrait.png --overwrite
	@echo "The painted picture: $(CURDIR)/demo-output/portrait.png (before: docs/images/portrait.jpg)"

test: $(READY)
	$(BIN)/pytest -n auto

check: lint types test

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(READY)
	$(BIN)/mypy

fix: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# On a CPU with the demo model: about an hour. Each takes --help, and --device cuda where there is a GPU.
BENCHES := latency throughput large serving simulate coldstart memory lossy seams overhead server_overhead rejections soak

bench: $(READY)
	@for name in $(BENCHES); do echo "bench.$$name"; $(BIN)/python -m bench.$$name \
	  --json bench/results/$$(echo $$name | tr _ -)-cpu.json || exit 1; done
	$(BIN)/python -m bench.plots --output docs/images

# Beyond one machine, about 45 minutes; the second needs PostgreSQL. bench.chaos, as root, cuts hosts off.
bench-cluster: $(READY)
	$(BIN)/python -m bench.fleet --json bench/results/fleet-cpu.json
	$(BIN)/python -m bench.cluster --json bench/results/cluster-cpu.json

install: $(READY)

# The pins are constraints.txt's. pip, not a resolver with its own index settings, so that a CPU build of
# torch that the machine offers is taken.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "inpaint needs Python 3.11 or newer; try: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "Python's venv module is missing; on Debian or Ubuntu: apt install python3-venv"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[server,telemetry,cluster,postgres,redis,s3,dev]'
	@touch $(READY)

clean:
	rm -rf .venv demo-output .mypy_cache .pytest_cache .ruff_cache

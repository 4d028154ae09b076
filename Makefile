.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
WORKERS ?= 4
CHART  := deploy/helm/oneprotect
VALUES ?= $(CHART)/ci/minimal.yaml
LOCK   := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --no-annotate

.PHONY: help setup dev demo test check coverage chaos fuzz bench bench-all bench-peers screenshots test-delivery-retry helm-template chart generate image-lint sbom nats lock clean

help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z][a-z-]*:.*## / {printf "  make %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## create .venv from the hashed lock file

$(READY): requirements-dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one with make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

dev: $(READY) ## run everything for a developer: nats-server, consumer, a receiver, a sample tenant
	$(BIN)/oneprotect dev

demo: $(READY) ## send 100 real deliveries through it; exits 0 only if each ended as it should
	$(BIN)/oneprotect dev --demo

test: export PYTHONDONTWRITEBYTECODE :=
test: $(READY) ## run all tests but the longest on a real nats-server: WORKERS at a time, then the serial ones
	@failed=0; \
	$(BIN)/python -m pytest -m "not long and not serial" -n $(WORKERS) --dist loadfile || failed=$$?; \
	$(BIN)/python -m pytest -m "not long and serial" || failed=$$?; \
	exit $$failed

test-delivery-retry: $(READY) ## the retry and replay tests only
	$(BIN)/python -m pytest -m retry -v

check: $(READY) ## format, lint, types, layers, and that a delivery takes no more calls than it did
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/python -m tools.references --check
	$(BIN)/python -m bench.calls

coverage: $(READY) ## branch coverage of what handles keys; anything below 100 % fails
	$(BIN)/python -m pytest -q tests/unit/provider tests/unit/consumers tests/kubernetes tests/contract tests/property \
		--cov=provider --cov=consumers.signatures.signer --cov-branch --cov-report=term-missing:skip-covered --cov-fail-under=100

chaos: $(READY) ## the long runs: kills again and again, floods, a replay of 100,000; prints and keeps figures (half an hour)
	$(BIN)/python -m pytest tests/chaos --times 5 --figures chaos.txt
	$(BIN)/python -m bench.fairness
	$(BIN)/python -m bench.fairness --flooders 20 --tenants 30
	$(BIN)/python -m bench.fairness --workers 4 --settle-s 15
	$(BIN)/python -m bench.fairness --flood 30000 --flooders 200
	$(BIN)/python -m bench.replay

fuzz: $(READY) ## the sender and the parsers against thousands of made-up inputs (a quarter of an hour)
	$(BIN)/python -m pytest tests/fuzz tests/property --hypothesis-profile fuzz --timeout 1200

screenshots: $(READY) ## take the pictures of the console anew, with Chromium
	$(BIN)/python -m tests.e2e.screenshots docs/images

bench: $(READY) ## POSTs to the API, and deliveries/s and latency of one consumer, each beside bare loops in the same run
	$(BIN)/python -m bench.api --rounds 2 --seconds 0.8
	$(BIN)/python -m bench

bench-peers: $(READY) ## the product beside FastStream, Celery, dramatiq and BullMQ: CPU per delivery (Redis and Node wanted)
	$(BIN)/python -m bench.peers

bench-all: $(READY) ## run every measurement (10 min): JSON in bench/results, and a table of the goals
	$(BIN)/python -m bench.all

helm-template: ## render the Helm chart to stdout, for VALUES=file or the least that it needs
	@$(MAKE) --silent setup >&2
	@"$$($(BIN)/python -m tools.get_helm)" template oneprotect $(CHART) --namespace oneprotect --values $(VALUES)

chart: $(READY) ## lint the chart, render it in each way under ci/, and check what comes out
	$(BIN)/python -m tools.chart
	$(BIN)/python -m tools.manifests deploy/secrets/*.yaml

generate: $(READY) ## bring everything up to date that is made from the program: chart, NATS, schemas, docs/reference
	$(BIN)/oneprotect schemas --output schemas
	$(BIN)/python -m tools.references
	$(BIN)/oneprotect nats files --output deploy/nats
	$(BIN)/python -m tools.chart_files

image-lint: $(READY) ## lint the Dockerfile
	$(BIN)/hadolint Dockerfile

sbom: $(READY) ## dist/sbom.cdx.json: what the image's environment is made of, from the lock file
	@mkdir -p dist
	$(BIN)/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible --of JSON -o dist/sbom.cdx.json requirements.txt

nats: $(READY) ## refresh what deploy/nats has from the code: permissions, streams, consumers, chart values
	$(BIN)/oneprotect nats files --output deploy/nats

lock: $(READY) ## resolve requirements*.txt anew (hashed, no addresses)
	$(LOCK) pyproject.toml -o requirements.txt
	$(LOCK) pyproject.toml --extra dev --group test -c requirements.txt -o requirements-dev.txt
	$(LOCK) bench/peers/requirements.in -o bench/peers/requirements.txt
	$(LOCK) --group build -c requirements-dev.txt -o requirements-build.txt

clean: ## remove what the other targets made
	rm -rf $(VENV) .tools .oneprotect .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

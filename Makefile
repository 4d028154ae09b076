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
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is required; choose one with make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

dev: $(READY) ## run a local installation: nats-server, consumer, receiver and a sample tenant
	$(BIN)/oneprotect dev

demo: $(READY) ## send 100 deliveries through a local installation, and check the outcome of each
	$(BIN)/oneprotect dev --demo

test: export PYTHONDONTWRITEBYTECODE :=
# Of xdist's schedulers only worksteal ends when a test ends its process: the others wait for ever.
test: $(READY) ## run all tests except the longest: in WORKERS processes, then the serial tests alone
	@failed=0; \
	$(BIN)/python -m pytest -m "not long and not serial" -n $(WORKERS) --dist worksteal --max-worker-restart 3 || failed=$$?; \
	$(BIN)/python -m pytest -m "not long and serial" || failed=$$?; \
	exit $$failed

test-delivery-retry: $(READY) ## run the retry and replay tests
	$(BIN)/python -m pytest -m retry -v

check: $(READY) ## check format, lint, types, layers, style, generated pages, and the calls per delivery
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/python -m tools.references --check
	$(BIN)/python -m tools.check_style
	$(BIN)/python -m bench.calls

coverage: $(READY) ## measure branch coverage of the code that handles keys; fail below 100 %
	$(BIN)/python -m pytest -q tests/unit/provider tests/unit/consumers tests/kubernetes tests/contract tests/property \
		--cov=provider --cov=consumers.signatures.signer --cov-branch --cov-report=term-missing:skip-covered --cov-fail-under=100

chaos: $(READY) ## run the long tests: the judge, repeated kills, floods, a replay of 100,000 deliveries (an hour)
	$(BIN)/python -m tests.chaos.judge --seconds 600
	$(BIN)/python -m tests.chaos.judge --seconds 600 --unordered
	$(BIN)/python -m pytest tests/model
	$(BIN)/python -m pytest tests/chaos --times 5 --figures chaos.txt
	$(BIN)/python -m pytest tests/isolation --p99-ms 50
	$(BIN)/python -m bench.fairness
	$(BIN)/python -m bench.fairness --flooders 20 --tenants 30
	$(BIN)/python -m bench.fairness --workers 4 --settle-s 15
	$(BIN)/python -m bench.fairness --flood 30000 --flooders 200
	$(BIN)/python -m bench.replay

fuzz: $(READY) ## test the HTTP client and the parsers with thousands of generated inputs (a quarter of an hour)
	$(BIN)/python -m pytest tests/fuzz tests/property --hypothesis-profile fuzz --timeout 1200

screenshots: $(READY) ## take the screenshots of the console with Chromium
	$(BIN)/python -m tests.e2e.screenshots docs/images

bench: $(READY) ## measure the API and one consumer, each compared with bare loops in the same run (a minute)
	$(BIN)/python -m bench.api --rounds 2 --seconds 0.8
	$(BIN)/python -m bench

bench-peers: $(READY) ## compare CPU per delivery with FastStream, Celery, dramatiq and BullMQ (needs Redis and Node)
	$(BIN)/python -m bench.peers

bench-all: $(READY) ## run every measurement (10 min): JSON in bench/results, and a table of the goals
	$(BIN)/python -m bench.all

helm-template: ## render the Helm chart to stdout with VALUES=file (default: ci/minimal.yaml)
	@$(MAKE) --silent setup >&2
	@"$$($(BIN)/python -m tools.get_helm)" template oneprotect $(CHART) --namespace oneprotect --values $(VALUES)

chart: $(READY) ## lint the chart, render it with every file of ci/, and check the manifests
	$(BIN)/python -m tools.chart
	$(BIN)/python -m tools.manifests deploy/secrets/*.yaml

generate: $(READY) ## regenerate the files that the code determines: chart, NATS, schemas, docs/reference
	$(BIN)/oneprotect schemas --output schemas
	$(BIN)/python -m tools.references
	$(BIN)/oneprotect nats files --output deploy/nats
	$(BIN)/python -m tools.chart_files
	$(BIN)/python -m tools.grafana_dashboard > deploy/grafana/oneprotect.json

image-lint: $(READY) ## lint the Dockerfile
	$(BIN)/hadolint Dockerfile

sbom: $(READY) ## write dist/sbom.cdx.json, the bill of materials of the image
	@mkdir -p dist
	$(BIN)/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible --of JSON -o dist/sbom.cdx.json requirements.txt

nats: $(READY) ## regenerate deploy/nats from the code: permissions, streams, consumers, chart values
	$(BIN)/oneprotect nats files --output deploy/nats

lock: $(READY) ## resolve requirements*.txt again, with versions and hashes and without URLs
	$(LOCK) pyproject.toml -o requirements.txt
	$(LOCK) pyproject.toml --extra dev --group test -c requirements.txt -o requirements-dev.txt
	$(LOCK) bench/peers/requirements.in -o bench/peers/requirements.txt
	$(LOCK) --group build -c requirements-dev.txt -o requirements-build.txt

clean: ## remove the files that the other targets create
	rm -rf $(VENV) .tools .oneprotect .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

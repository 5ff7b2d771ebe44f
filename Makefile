# The verbs of a Kubernetes developer. `make` alone lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
MAKEFLAGS += --no-print-directory

# The first Python that is new enough; the preflight says what to do when there is none.
PYTHON ?= $(shell for each in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$each -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$each && exit; done; echo python3)
VENV := .venv
BIN := $(VENV)/bin
# The rooms of hack/: each is a folder on the path with one package.
ROOMS := hack/dev:hack/playground:hack/offline
IN_ROOMS := PYTHONPATH=$(ROOMS) $(BIN)/python -m
TESTS := tests/unit tests/property tests/integration tests/faults tests/fuzz
# Three control planes whose tests mostly wait, then three processes that compute, whatever the machine has.
PARALLEL := -n 3

.PHONY: help
help: ## list these verbs
	@echo "make VERB, where VERB is one of"
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## the whole job on a local cluster, narrated; OFFSET= SEED= SPLIT= change the case, ENGINES=vllm or dynamo takes real ones, ARGS=--keep stays up
	@$(PYTHON) hack/dev/weft_dev/preflight.py demo
	@$(MAKE) -s $(VENV)/.complete
	@$(IN_ROOMS) weft_playground.demo $(if $(ENGINES),--engines $(ENGINES)) $(if $(OFFSET),--offset $(OFFSET)) $(if $(SEED),--seed $(SEED)) $(if $(SPLIT),--split $(SPLIT)) $(ARGS)

.PHONY: pictures
pictures: $(VENV)/.complete ## docs/images out of what the last make demo ARGS=--ui left in build/; needs Chromium
	@$(IN_ROOMS) weft_playground.demo.pictures

.PHONY: test
test: ## all tests; those without a cluster run while its tools are built
	@$(PYTHON) hack/dev/weft_dev/preflight.py test
	@$(MAKE) -s $(VENV)/.complete
	$(BIN)/pytest $(TESTS) $(PARALLEL) $(ARGS)

.PHONY: test-unit
test-unit: $(VENV)/.complete ## tests that need no cluster; of the tools they take helm alone
	$(BIN)/pytest tests/unit tests/property $(ARGS)

.PHONY: test-integration
test-integration: ## tests against a real control plane
	@$(PYTHON) hack/dev/weft_dev/preflight.py test
	@$(MAKE) -s $(VENV)/.complete
	$(BIN)/pytest tests/integration tests/faults tests/fuzz $(ARGS)

.PHONY: faults
faults: ## seeded faults between operator, API server and fabric manager; SEEDS=n SEED_START=k choose the runs
	@$(PYTHON) hack/dev/weft_dev/preflight.py test
	@$(MAKE) -s $(VENV)/.complete
	FAULTS_SEEDS=$(SEEDS) FAULTS_SEED_START=$(SEED_START) $(BIN)/pytest tests/faults $(ARGS)

.PHONY: schedules
schedules: $(VENV)/.complete ## the same faults in memory and virtual time; SEEDS=n SEED_START=k choose the runs, ARGS=--log says what happens
	PYTHONPATH=tests $(BIN)/python -m support.simulated --seeds $(or $(SEEDS),10000) --start $(or $(SEED_START),0) $(ARGS)

.PHONY: crash-sweep
crash-sweep: ## kill -9 of the leader before and after every message of each act; takes half an hour
	@$(PYTHON) hack/dev/weft_dev/preflight.py test
	@$(MAKE) -s $(VENV)/.complete
	$(BIN)/pytest tests/crash $(ARGS)

.PHONY: fuzz
fuzz: ## odd specs against the API server and the running operator; SEEDS=n SEED_START=k choose them, 2,000 by default
	@$(PYTHON) hack/dev/weft_dev/preflight.py test
	@$(MAKE) -s $(VENV)/.complete
	FUZZ_SEEDS=$(or $(SEEDS),2000) FUZZ_SEED_START=$(SEED_START) $(BIN)/pytest tests/fuzz -s $(ARGS)

.PHONY: test-live
test-live: ## groups that grow, shrink, roll and move under real requests; takes some minutes
	@$(PYTHON) hack/dev/weft_dev/preflight.py test
	@$(MAKE) -s $(VENV)/.complete
	$(BIN)/pytest tests/live $(ARGS)

.PHONY: validate-emulator
validate-emulator: $(VENV)/.complete ## DMTF's validators against the emulator in every dialect; takes some minutes, and cargo once
	$(BIN)/pytest tests/validators -rA $(ARGS)

.PHONY: mutants
mutants: $(VENV)/.complete ## break each safety guard of tests/mutants in a copy, and see a named test fail; NAMES= some
	@$(IN_ROOMS) weft_dev.mutants $(NAMES)

.PHONY: mutation
mutation: $(VENV)/.complete ## change the planner everywhere, a bit at a time, and list in docs/survivors.md what its unit tests miss; a quarter of an hour, MODULES=outlook some
	@$(IN_ROOMS) weft_dev.mutation $(MODULES)

.PHONY: test-e2e
test-e2e: ## the chart, engines and live traffic in make kind-up's cluster, after removing all of Weft's there
	@$(PYTHON) hack/dev/weft_dev/preflight.py kind
	@$(MAKE) -s $(VENV)/.complete
	$(BIN)/pytest tests/e2e $(ARGS)

.PHONY: demo-kind
demo-kind: ## the demo in the same cluster, after removing all of Weft's; OFFSET= SEED= SPLIT= ARGS= as in demo
	@$(PYTHON) hack/dev/weft_dev/preflight.py kind
	@$(MAKE) -s $(VENV)/.complete
	@$(IN_ROOMS) weft_playground.demo --kind $(if $(OFFSET),--offset $(OFFSET)) $(if $(SEED),--seed $(SEED)) $(if $(SPLIT),--split $(SPLIT)) $(ARGS)

.PHONY: bench
bench: ## measure: what a bind costs, kopf as informer and as reconciler, placement while many wait
	@$(PYTHON) hack/dev/weft_dev/preflight.py test
	@$(MAKE) -s $(VENV)/.complete
	PYTHONPATH=$(ROOMS):tests:tests/bench $(BIN)/python tests/bench/binding.py
	PYTHONPATH=$(ROOMS):tests:tests/bench $(BIN)/python tests/bench/kopf_handlers.py
	PYTHONPATH=$(ROOMS):tests:tests/bench $(BIN)/python tests/bench/placement.py

.PHONY: bench-balancing
bench-balancing: $(VENV)/.complete ## every policy in NVIDIA Dynamo's own replay, its own planner too; ARGS= for some
	PYTHONPATH=$(ROOMS):tests/bench/balancing $(BIN)/python tests/bench/balancing/bench.py $(ARGS)

.PHONY: bench-balancing-steps
bench-balancing-steps: $(VENV)/.complete ## what a decision costs at 8 and 64 replicas, and 1,000 steady groups
	PYTHONPATH=$(ROOMS):tests:tests/bench $(BIN)/python tests/bench/steps.py

.PHONY: bench-rehearsal
bench-rehearsal: $(VENV)/.complete ## every policy of weft rehearse on the same cases; ARGS="--seeds 1 --cases scarce"
	PYTHONPATH=$(ROOMS):tests/bench/balancing:tests/bench/rehearsal $(BIN)/python tests/bench/rehearsal/evaluate.py $(ARGS)

.PHONY: bench-size
bench-size: $(VENV)/.complete ## whole days with a free size against the best fixed fleet; ARGS="--days m-mid-day2 --cold-starts 60"
	PYTHONPATH=$(ROOMS):tests/bench/balancing:tests/bench/rehearsal $(BIN)/python tests/bench/rehearsal/days.py $(ARGS)

.PHONY: evaluation
evaluation: $(VENV)/.complete ## play the three benches above, mixtures and the engine model, hours, and write docs/evaluation.md's tables; ARGS=--played takes what they left in build/, --tables only writes
	PYTHONPATH=$(ROOMS):tests:tests/bench/balancing:tests/bench/rehearsal $(BIN)/python tests/bench/evaluation.py $(ARGS)

.PHONY: check-engine-model
check-engine-model: $(VENV)/.complete ## the rehearsal's and the playground's engines against dynamo.mocker, and measured hardware; ENGINES=vllm, dynamo, playground: against those, running
ifeq ($(ENGINES),)
	PYTHONPATH=$(ROOMS):tests/bench/balancing:tests/bench/rehearsal $(BIN)/python tests/bench/rehearsal/mocker.py
	PYTHONPATH=$(ROOMS):tests/bench/balancing:tests/bench/rehearsal $(BIN)/python tests/bench/rehearsal/measured.py
else
	@$(IN_ROOMS) weft_playground.demo --compare --engines $(ENGINES) $(if $(SEED),--seed $(SEED)) $(if $(SPLIT),--split $(SPLIT)) $(ARGS)
endif

.PHONY: tune-opponents
tune-opponents: $(VENV)/.complete ## twelve settings for each policy other than Weft, on stretches that nothing is reported on
	PYTHONPATH=$(ROOMS):tests/bench/balancing:tests/bench/rehearsal $(BIN)/python tests/bench/rehearsal/tune.py

.PHONY: bench-binding
bench-binding: ## what binding costs, with its goals, as a table and build/bench/binding.json; SIZES=500,1000,5000
	@$(PYTHON) hack/dev/weft_dev/preflight.py test
	@$(MAKE) -s $(VENV)/.complete
	PYTHONPATH=$(ROOMS):tests:tests/bench $(BIN)/python tests/bench/binding.py $(if $(SIZES),--sizes $(SIZES))

.PHONY: bench-queue
bench-queue: $(VENV)/.complete ## the queue: decisions, utilisation, waiting times, shares; TRACES="a.csv b.csv" replays those too
	PYTHONPATH=$(ROOMS):tests:tests/bench $(BIN)/python tests/bench/queueing.py $(TRACES)

.PHONY: lint
lint: $(VENV)/.complete ## ruff, mypy and the import contracts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: generate
generate: $(VENV)/.complete ## write crds/ and the chart's copy from the models in operator/src/weft/api, docs/fields.md from the tests, docs/reasons.md from api/reasons, docs/options.md from the commands, docs/evaluation.md's tables from tests/bench/results
	$(BIN)/weft crds --output crds
	$(BIN)/weft crds --output charts/weft/files/crds
	PYTHONPATH=tests $(BIN)/python -m support.fields
	PYTHONPATH=tests $(BIN)/python -m support.reasons
	PYTHONPATH=tests $(BIN)/python -m support.options
	PYTHONPATH=$(ROOMS):tests:tests/bench/balancing:tests/bench/rehearsal $(BIN)/python tests/bench/evaluation.py --tables
	$(IN_ROOMS) weft_dev.dashboards charts/weft/files/dashboards

.PHONY: sbom
sbom: $(VENV)/.complete ## what the image contains: build/weft.cdx.json (CycloneDX), and docs/licences.md with the licences
	@$(IN_ROOMS) weft_dev.sbom

.PHONY: verify
verify: $(VENV)/.complete ## check that generated files, examples, locks and versions agree
	@$(IN_ROOMS) weft_dev.verify

.PHONY: cluster
cluster: ## a local cluster that stays up, with its kubeconfig; Ctrl-C ends it
	@$(PYTHON) hack/dev/weft_dev/preflight.py cluster
	@$(MAKE) -s $(VENV)/.complete
	@$(IN_ROOMS) weft_dev.cluster $(ARGS)

.PHONY: kind-up
kind-up: ## a kind cluster of three nodes with Weft's images, made once and reused; prints its kubeconfig
	@$(PYTHON) hack/dev/weft_dev/preflight.py kind
	@$(MAKE) -s $(VENV)/.complete
	@$(IN_ROOMS) weft_dev.kind_site

.PHONY: kind-down
kind-down: ## remove the kind cluster and Weft's images; KEEP_IMAGES=1 keeps those
	@PYTHONPATH=$(ROOMS) $(PYTHON) -m weft_dev.kind down $(if $(KEEP_IMAGES),--keep-images)

.PHONY: run
run: $(VENV)/.complete ## the operator against the current kubeconfig, after asking; YES=1 does not ask
	@YES="$(YES)" $(IN_ROOMS) weft_dev.run $(ARGS)

.PHONY: image
image: $(VENV)/.complete ## the images of the operator, the demo and Prometheus, and their sizes; starts Docker if need be
	@$(IN_ROOMS) weft_dev.images

.PHONY: tools
tools: ## find, fetch or build the tools of a local cluster, and print where they are
	@$(PYTHON) hack/dev/weft_dev/preflight.py test
	@PYTHONPATH=$(ROOMS) $(PYTHON) -m weft_dev.tools

.PHONY: clean
clean: ## remove the virtual environment and what tests and linters left in the clone
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build dist
	find operator hack tests -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: clean-cache
clean-cache: ## remove the tools that were fetched or built, and print what that frees
	@PYTHONPATH=$(ROOMS) $(PYTHON) -m weft_dev.tools --clean

$(VENV)/.complete: requirements-dev.lock pyproject.toml
	@$(PYTHON) hack/dev/weft_dev/preflight.py venv
	@$(PYTHON) hack/dev/weft_dev/venv.py $(VENV)

# Kaplan. `make help` lists the targets.

export CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/kaplan/target
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
CARGO ?= cargo

# Counts of one run; `make soak` uses the full ones, which docs/evidence records.
CASES ?= 1000
ROUNDS ?= 30
STEPS ?= 50000
# `make fuzz`: how long, all targets together.
SECONDS ?= 60
# Rows of `make bench-sources`, which measures the dev profile.
SOURCE_ROWS ?= 200000
# `make bench`: events of history, rows of state whose change is measured, and the profile; a release
# build takes long the first time. BENCH= has more options, such as '--only replay --queries q4,q7'.
EVENTS ?= 10000000
ROWS ?= 10000000
PROFILE ?= release
BENCH ?=
# A fresh seed unless one is given: SEED=17 repeats a run. Expanded once, so that a target prints
# the seed that it uses.
SEED := $(or $(SEED),$(shell od -An -N4 -tu4 /dev/urandom | tr -d ' '))
export SEED
FULL_CASES := 10000
FULL_ROUNDS := 500
FULL_STEPS := 1000000
FULL_FUZZ_SECONDS := 300
# What a full run of it passes even on a slow machine.
FULL_FUZZ := 1000000

RUN_LAW := $(CARGO) test -q -p kaplan-sql --test law --
RUN_CRASH := $(CARGO) run -q -p kaplan-cli --example crash_matrix --
RUN_FUZZ := $(CARGO) test -q -p kaplan-server --test fuzz --
RUN_CORPUS := $(CARGO) test -q -p kaplan-server --test corpus --
RUN_SIMULATE := $(CARGO) run -q -p kaplan-log --example simulate --

.PHONY: help setup build demo test test-program check deploy-check deploy-selftest rehearse-cloud cold-start image deb fmt tidy law slt slt-all slt-write slt-postgres coverage program crash-matrix simulate fuzz soak evidence bench bench-programs bench-sources profile mutants clean-data

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "Repeat a random run with SEED=n; CASES=, ROUNDS= and STEPS= set its length."

setup: ## Check for Rust and a C compiler, and install what apt can (as root)
	@scripts/setup.sh

build: setup ## Build the program (dev profile; the hot crates are optimised in it too)
	$(CARGO) build -p kaplan-cli

demo: build ## Start Kaplan with the flights example and show what it does
	"$$CARGO_TARGET_DIR/debug/kaplan" demo

test: test-program ## Everything that must pass: tests, tidy, short random runs, evidence, deployment
	@deploy/check/run.sh quick image rehearsal

test-program: setup ## The same without the checks of deploy/
	$(CARGO) test --workspace
	@$(MAKE) --no-print-directory simulate crash-matrix SEED=$(SEED)
	@$(MAKE) --no-print-directory evidence

check: setup ## What a change must pass before review: format, lints, tests, tidy
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) test --workspace

fmt: ## Format the code
	$(CARGO) fmt --all

tidy: ## Check headers, sizes, floors and links
	$(CARGO) test -q -p kaplan-base --test tidy

law: ## The law on random views, inputs, cuts and restarts: CASES= SEED=
	@echo "law: $(CASES) cases, SEED=$(SEED)"
	@$(RUN_LAW) --cases $(CASES) --seed $(SEED)

slt: ## The SQL logic tests of tests/slt: SEED=
	@$(RUN_CORPUS) slt --seed $(SEED)

slt-all: ## The same with each of their four passes alone: SEED=
	@$(RUN_CORPUS) slt all --seed $(SEED)

slt-write: ## Write the list of logic tests that fail, after some have been mended
	@$(RUN_CORPUS) slt --write

slt-postgres: ## The logic tests on PostgreSQL, whose answers they expect (needs apt postgresql)
	@scripts/slt-postgres.sh

coverage: ## All queries of Nexmark and TPC-H as views; writes docs/sql-coverage.md: SEED=
	@$(RUN_CORPUS) nexmark tpch refused all --write --seed $(SEED)

program:
	@$(CARGO) build -q -p kaplan-cli

crash-matrix: program ## kill -9 of Kaplan, Kafka and PostgreSQL and cut lines at random moments, then count: ROUNDS= SEED=
	@echo "crash-matrix: $(ROUNDS) rounds, SEED=$(SEED)"
	@$(RUN_CRASH) --rounds $(ROUNDS) --seed $(SEED)

simulate: ## The log under simulated faults (torn writes, failed fsyncs; lost answers of a bucket): STEPS= SEED=
	@echo "simulate: $(STEPS) steps, SEED=$(SEED)"
	@$(RUN_SIMULATE) --steps $(STEPS) --seed $(SEED)

fuzz: ## Damaged bytes for every decoder of outside bytes: SECONDS= SEED= TARGET=wal
	@echo "fuzz: $(SECONDS) s, SEED=$(SEED)"
	@$(RUN_FUZZ) $(TARGET) --seconds $(SECONDS) --seed $(SEED)

soak: setup program ## The random runs at full length and all queries; records docs/evidence/*.json
	@scripts/evidence.sh law $(SEED) $(RUN_LAW) --cases $(FULL_CASES) --seed $(SEED)
	@scripts/evidence.sh crash-matrix $(SEED) $(RUN_CRASH) --rounds $(FULL_ROUNDS) --seed $(SEED)
	@scripts/evidence.sh simulate $(SEED) $(RUN_SIMULATE) --steps $(FULL_STEPS) --seed $(SEED)
	@scripts/evidence.sh fuzz $(SEED) $(RUN_FUZZ) --seconds $(FULL_FUZZ_SECONDS) --seed $(SEED)
	@scripts/evidence.sh rehearse-cloud $(SEED) $(MAKE) --no-print-directory rehearse-cloud SEED=$(SEED)
	@$(MAKE) --no-print-directory slt-all SEED=$(SEED)
	@scripts/evidence.sh coverage $(SEED) $(RUN_CORPUS) nexmark tpch refused all --seed $(SEED)
	@$(MAKE) --no-print-directory evidence

evidence: ## Check that docs/evidence holds full, faultless runs
	@scripts/check-evidence.sh law=$(FULL_CASES) crash-matrix=$(FULL_ROUNDS) simulate=$(FULL_STEPS) \
		fuzz=$(FULL_FUZZ) 'rehearse-cloud?=50'

deploy-check: program ## Check deploy/: Terraform, Cloud Build, images, manifests, units, the package
	@deploy/check/run.sh all

deploy-selftest: ## Plant faults below deploy/ one by one, and see that its checks notice
	@deploy/check/selftest.py

# Rounds of `make rehearse-cloud`: restarts, kills, revisions, double instances.
REHEARSAL ?= 50

rehearse-cloud: program ## The image on a bucket, as Cloud Run would run it, under faults: REHEARSAL= SEED=
	@deploy/rehearse/run.sh "$(PROGRAM)" --rounds $(REHEARSAL) --seed $(SEED) --memory-mib 4096

# Size of `make cold-start`.
GROUPS_OF_STATE ?= 1000000
DATA_FILES ?= 10000

cold-start: program ## How long a start from a bucket takes, and what bounds it: GROUPS_OF_STATE= DATA_FILES=
	@deploy/rehearse/cold_start.py "$(PROGRAM)" --groups $(GROUPS_OF_STATE) --files $(DATA_FILES)

# What `image` and `deb` take: PROGRAM=target/release/kaplan for one that is to be used.
PROGRAM ?= $(CARGO_TARGET_DIR)/debug/kaplan

image: program ## Put the program into an image, without a container engine: deploy/out/image.tar
	deploy/image/build.sh "$(PROGRAM)" kaplan:dev deploy/out

deb: program ## Put the program into a Debian package: deploy/out/kaplan_*.deb
	deploy/debian/build.sh "$(PROGRAM)" deploy/out

# Where a profile's programs are; cargo calls the directory of `dev` debug.
BUILT := $(CARGO_TARGET_DIR)/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))

bench-programs: setup
	$(CARGO) build --profile $(PROFILE) -q -p kaplan-nexmark
	$(CARGO) build --profile $(PROFILE) -q -p kaplan-cli --example bench

bench: bench-programs ## Measure beside DuckDB, DataFusion, chDB into bench/results.*: EVENTS= ROWS= PROFILE=dev
	python3 bench/run.py --program "$(BUILT)/examples/bench" --generator "$(BUILT)/kaplan-nexmark" \
	  --events $(EVENTS) --rows $(ROWS) $(BENCH)

profile: bench-programs ## Flame graphs of the replays (needs apt linux-perf): EVENTS= PROFILE=dev
	python3 bench/flame.py --program "$(BUILT)/examples/bench" --generator "$(BUILT)/kaplan-nexmark" \
	  --events $(EVENTS) $(BENCH)

bench-sources: program ## Sources beside librdkafka and pg_recvlogical on the same servers: SOURCE_ROWS=
	@$(CARGO) run -q -p kaplan-cli --example bench_sources -- --rows $(SOURCE_ROWS)

mutants: ## Take decisions out of the code one by one, and see that a test notices
	@scripts/mutants.py

clean-data: ## Delete ./kaplan-data, the default data directory
	rm -rf kaplan-data

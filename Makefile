# Builds, checks and shows Semel. `make help` lists what there is to ask for.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Outside the tree, so that every checkout shares the compiled RocksDB and FAISS.
CARGO_TARGET_DIR ?= $(HOME)/.cache/semel/target
export CARGO_TARGET_DIR
# The optional tools of the checks; deploy/setup fills it, and tests find grpcurl and Python clients in it.
SEMEL_TOOLS ?= $(HOME)/.cache/semel/venv
export SEMEL_TOOLS
export PATH := $(PATH):$(SEMEL_TOOLS)/bin

# One profile and one set of packages everywhere. Cargo unifies features over the packages it is asked for, so that a smaller
# set may need the C++ compiled with another build script: `-p semel-index-faiss` alone does.
FLAGS := --workspace --release --locked
# The same workspace without FAISS: every sealed segment is scanned exactly.
FLAGS_EXACT := $(FLAGS) --exclude semel-index-faiss --no-default-features
# The simulation with the deliberate defects of the cores, in a build of its own: nothing else may have them.
SIMULATION := --package semel-simulation --features mutants --release --locked
# Empty it (`make build SETUP=`) where the system packages were installed in another way.
SETUP ?= deploy/setup
DEMO_ARGS ?=

# $(call optional,PROGRAM,COMMAND) runs a check whose program may be missing, and then says that it did not run.
optional = if command -v $(1) >/dev/null; then echo '$(2)'; $(2); else echo 'skipped: $(2) ($(1) is not installed)'; fi

# Also under `make -j`: cargo is parallel by itself, and the order of the checks has a reason.
.NOTPARALLEL:

.PHONY: help
help: ## Lists these targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 22

.PHONY: demo
demo: build ## Runs a cluster of three nodes, enrols real and synthetic people, kills a node, reports
	@$(CARGO_TARGET_DIR)/release/semel demo $(DEMO_ARGS)

.PHONY: setup
setup: ## Installs system packages and the optional tools of the checks (root or sudo)
	@$(SETUP)

.PHONY: build
build: packages first-build ## Builds everything; the binary is release/semel in CARGO_TARGET_DIR
	@cargo build $(FLAGS)

.PHONY: check
check: first-build ## The quick look before a commit: formatting and clippy
	cargo fmt --all --check
	cargo clippy $(FLAGS) --all-targets -- -D warnings
	cargo clippy $(SIMULATION) --all-targets -- -D warnings

# The tests come last, so that the last line of the output is their summary.
.PHONY: test
test: setup first-build lint check check-exact doc mutants memcheck tests ## Every check and every test, as continuous integration runs them

# Where `make advisories` leaves its database. A check without network changes its verdict only when that is run again.
ADVISORY_DATABASES := $(or $(CARGO_HOME),$(HOME)/.cargo)/advisory-dbs

.PHONY: lint
lint: ## Dependencies, protos, scripts and the Containerfile, each where its tool is installed
	@$(call optional,cargo-deny,cargo deny --locked check bans licenses sources)
	@if [[ -d '$(ADVISORY_DATABASES)' ]]; then \
	  $(call optional,cargo-deny,cargo deny --locked check advisories --disable-fetch); \
	else \
	  echo 'skipped: advisories (no database on this machine; make advisories fetches it)'; \
	fi
	@$(call optional,buf,buf lint proto)
	@$(call optional,shellcheck,shellcheck .ci/run deploy/setup deploy/local/run)
	@$(call optional,hadolint,hadolint deploy/Containerfile)

.PHONY: check-exact
check-exact: ## Clippy on the build without FAISS
	cargo clippy $(FLAGS_EXACT) --all-targets -- -D warnings

.PHONY: doc
doc: ## Builds the API documentation, with warnings denied
	RUSTDOCFLAGS='-D warnings' cargo doc $(FLAGS) --no-deps

# cargo test is there wherever cargo is, so everybody runs the same tests in the same way. It closes one summary per test
# binary; the line printed after them adds those up.
# The suites with processes run the `semel` binary beside the tests, which must be of the same sources.
run_tests = cargo build $(1); log=$$(mktemp); trap 'rm -f "$$log"' EXIT; status=0; \
	cargo test $(1) --no-fail-fast 2>&1 | tee "$$log" || status=$$?; \
	awk '/^test result: /{passed += $$4; failed += $$6; ignored += $$8} \
	  END {printf "%d passed, %d failed, %d skipped\n", passed, failed, ignored}' "$$log"; \
	exit $$status

.PHONY: tests
tests: first-build ## Unit, integration and documentation tests
	@$(call run_tests,$(FLAGS))

.PHONY: tests-exact
tests-exact: ## The same tests on the build without FAISS
	@$(call run_tests,$(FLAGS_EXACT))

# What `make fuzz` runs, for how long, and where what it finds stays between two runs.
TARGET ?= raft_steps
SECONDS ?= 60
FUZZ_FOLDER ?= $(HOME)/.cache/semel/fuzz
FUZZ_CORPUS := tests/fuzz/tests/__fuzz__/$(TARGET)/corpus
# Coverage as libfuzzer reads it. Naming the platform keeps the flags from build scripts; the folder, from everything else.
FUZZ_RUSTFLAGS := --cfg fuzzing --cfg fuzzing_libfuzzer -Cpasses=sancov-module \
  $(addprefix -Cllvm-args=-sanitizer-coverage-,level=4 inline-8bit-counters pc-table trace-compares) -Ccodegen-units=1
FUZZ_ARGS ?= -max_total_time=$(SECONDS) -max_len=4096 -timeout=20

.PHONY: fuzz
fuzz: ## Looks for new inputs of one fuzz target: TARGET=raft_steps SECONDS=60 (libfuzzer, on the stable toolchain)
	@[[ -d '$(FUZZ_CORPUS)' ]] || { echo 'TARGET must be one of:' $$(ls tests/fuzz/tests/__fuzz__) >&2; exit 2; }
	@mkdir -p '$(FUZZ_FOLDER)/$(TARGET)/found'
	CARGO_TARGET_DIR='$(FUZZ_FOLDER)' RUSTFLAGS='$(FUZZ_RUSTFLAGS)' \
	  BOLERO_LIBFUZZER_ARGS='$(FUZZ_FOLDER)/$(TARGET)/found $(CURDIR)/$(FUZZ_CORPUS) $(FUZZ_ARGS) -artifact_prefix=$(FUZZ_FOLDER)/$(TARGET)/' \
	  cargo test --package semel-fuzz --release --locked --target "$$(rustc -vV | sed -n 's/^host: //p')" --tests \
	  -- '$(TARGET)' --exact --nocapture

# As in the names of cargo's variables.
HOST = $(shell rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')

# Valgrind knows no AVX-512, so the kernels run with AVX2 and without. Other crates have no tests of that name.
.PHONY: memcheck
memcheck: first-build ## The kernels' tests under valgrind, where it is installed: nothing reads what nobody has written
	@$(call optional,valgrind,CARGO_TARGET_$(HOST)_RUNNER="valgrind --quiet --error-exitcode=9" cargo test $(FLAGS) --lib -- --quiet kernel::)

.PHONY: mutants
mutants: first-build ## Shows that the simulation's checkers notice every deliberate defect
	cargo test $(SIMULATION) --test mutants -- --nocapture

.PHONY: sim
sim: first-build ## Simulates the cluster: 200 seeds, SEEDS=n more, SEED=n one; SIM_ARGS=--help for the rest
	@cargo run $(SIMULATION) -- $(SIM_ARGS)

# How long `make soak` runs.
MINUTES ?= 60

.PHONY: soak
soak: first-build ## Kills servers of a loaded cluster at random for MINUTES=60 and prints what they hold (Linux, root)
	cargo build $(FLAGS)
	SOAK_MINUTES=$(MINUTES) cargo test $(FLAGS) --test faults -- soak --nocapture

# How many references, in how many shards.
REFERENCES ?= 200000
SHARDS ?= 1

.PHONY: restart
restart: build ## Prints what a node's restart takes and the memory of a reference: REFERENCES=200000 SHARDS=1
	SEMEL_RESTART_REFERENCES='$(REFERENCES)' SEMEL_RESTART_SHARDS='$(SHARDS)' \
	  cargo test $(FLAGS) --test restart -- --nocapture --test-threads 1

.PHONY: advisories
advisories: ## Fetches the RustSec database and checks the dependencies against it
	cargo deny --locked check advisories

.PHONY: clean
clean: ## Removes all build output, the compiled RocksDB and FAISS included
	cargo clean

.PHONY: packages
packages:
	@$(SETUP) $(if $(SETUP),packages)

# Whose build the target folder holds. Cargo tells fresh from stale by modification times, which mean nothing between two
# checkouts: another one's build of these crates is thrown away, and only what they depend on is shared.
CHECKOUT := $(CARGO_TARGET_DIR)/checkout
MEMBERS := $(shell sed -n 's/^name = "\(semel-[a-z-]*\)"$$/\1/p' $(wildcard */Cargo.toml */*/Cargo.toml))

.PHONY: first-build
first-build:
	@cargo fetch --locked --quiet
	@if [[ "$$(cat '$(CHECKOUT)' 2>/dev/null)" != '$(CURDIR)' ]]; then \
	  cargo clean --quiet --release $(addprefix --package ,$(MEMBERS)); \
	  mkdir -p '$(CARGO_TARGET_DIR)'; echo '$(CURDIR)' >'$(CHECKOUT)'; \
	fi
	@if ! compgen -G '$(CARGO_TARGET_DIR)/release/build/librocksdb-sys-*/out/librocksdb.a' >/dev/null; then \
	  echo 'First build: RocksDB and FAISS are compiled from source, once: 15 to 50 minutes on two cores.'; \
	  echo 'Their output stays in $(CARGO_TARGET_DIR), so every later build takes a minute or two.'; \
	fi

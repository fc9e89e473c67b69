# The commands of this project. `make help` lists them.
# Everything that is installed for tests and the demo goes to .deps/, which git ignores.

# Each target is a command, not a file.
.PHONY: help deps build test torture simulation attack sabotage fuzz-smoke deny check bench bench-guard demo demo-swarm clean

help: ## list the commands
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 13

deps: ## install what tests and the demo need, or say what is missing
	@tools/deps all

build: ## build the binaries
	cargo build --workspace --bins

test: deps ## run every test that can run on this machine
	@tools/test

# Losses of power, kills, and the seed of both (a new one each time if it is empty): make torture KILLS=1000 SEED=7
KILLS ?= 200
PREFIXES ?= 200
SEED ?=
torture: build ## kill the server and take its power away, hundreds of times; nothing acknowledged may be lost
	KILLS=$(KILLS) PREFIXES=$(PREFIXES) SEED=$(SEED) \
		cargo test -p vouchsafe-tests --test torture -- --nocapture --test-threads=1

# Rounds of each attack: make attack ROUNDS=200
ROUNDS ?= 1000
attack: deps build ## try each attack on callers' identities 1,000 times, or ROUNDS=n times
	ROUNDS=$(ROUNDS) cargo test -p vouchsafe-tests --test attacks -- --test-threads=2

sabotage: ## show that each defence's tests fail without it
	@tools/sabotage

SEED ?= 1
SEEDS ?= 2000
simulation: ## random operations and faults under a controlled clock: SEEDS of them, from SEED on
	VOUCHSAFE_SIMULATION_SEED=$(SEED) VOUCHSAFE_SIMULATION_SEEDS=$(SEEDS) \
		cargo test --profile fast -p vouchsafe-tests --test simulation -- --nocapture

fuzz-smoke: ## each fuzz target for 20 seconds (cargo-fuzz, a nightly toolchain)
	@tools/fuzz 20

# Where the database of advisories cannot be downloaded: make deny DENY=--offline takes the one that is there.
DENY ?=
deny: ## licences, sources, versions and advisories by cargo-deny (installs it, downloads the database)
	@command -v cargo-deny >/dev/null || cargo install cargo-deny --locked
	cargo deny $(DENY) check --hide-inclusion-graph

check: ## formatting, lints, documentation, the rules of the repository
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps
	cargo test --workspace --test tidy

bench: ## measure the figures; BENCH passes flags, as in BENCH="--only 3 --quick" (docs/performance.md)
	cargo build --release --workspace --bins
	target/release/vouchsafe-bench $(BENCH)

bench-guard: ## compare the instructions of the hot paths with the committed counts; UPDATE=1 rewrites those
	cargo build --release -p vouchsafe-bench --bin vouchsafe-hotpaths
	target/release/vouchsafe-hotpaths $(if $(UPDATE),--update)

demo: ## three real agent processes get identities and talk mTLS
	@tools/deps demo
	@.deps/python/bin/python demo/run

# Without a defence, to see that the attacks are real: make demo-swarm DEFENCE=off
DEFENCE ?= on
demo-swarm: ## agents of real frameworks start each other; a shell of one goes for its identity in vain (as root)
	@tools/deps swarm
	@.deps/swarm/bin/python demo/run-swarm --defence $(DEFENCE)

clean: ## remove what was built and installed here
	rm -rf .deps demo/.run demo/.run-swarm
	cargo clean

# `make check test` is what CI runs.  The first target that needs it makes .venv; only a Python
# of 3.11 or newer with its venv module has to be there.  Another one: make PYTHON=python3.13 ...

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
JOBS ?= 4
ROUNDS ?= 1000

# Where install-systemd puts things: PREFIX=/usr for a package.  BINDIR is where the command is.
DESTDIR ?=
PREFIX ?= /usr/local
BINDIR ?= $(PREFIX)/bin
SYSTEMD ?= $(shell systemctl --version 2>/dev/null | sed -n '1s/^systemd \([0-9]*\).*/\1/p')

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test differential bench soak check man lock install-systemd clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

setup: $(STAMP) ## make .venv with the pinned dependencies and this package

demo: $(STAMP) ## bring up real nodes on this machine and replicate between them
	$(BIN)/python -m tests.nodes.demo $(ARGS)

# The tests of a module share its fixtures and their order, so they stay in one process. Folders come
# as they are named: the nodes' long modules first, the many short ones fill up what is left. More
# processes than cores, since many tests wait for nodes and daemons.
test: $(STAMP) ## run the tests; ARGS="-m 'not e2e'" chooses, JOBS=0 runs them in one process
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

differential: $(STAMP) ## compare our rows with a node's own on pages drawn anew; ROUNDS=5000 draws more
	DIFFERENTIAL_ROUNDS=$(ROUNDS) $(BIN)/python -m pytest tests/differential/test_generated.py $(ARGS)

bench: $(STAMP) ## measure rates, latency, fairness and the cost of doing nothing, some minutes
	$(BIN)/python -m benchmarks.pull_rate --facts 10000 --node-facts 400 --rounds 1
	$(BIN)/python -m benchmarks.write_latency --facts 10000 --idle 150
	$(BIN)/python -m benchmarks.fairness --peers 200 --hanging 10 --throttled 4 --turns 8
	$(BIN)/python -m benchmarks.idle --peers 200 --polls 24 --interval 2
	$(BIN)/python -m benchmarks.forgetting --tombstones 5 --interval 3

soak: $(STAMP) ## the long ones: a thousand peers, a hundred kills, chance at length, a quarter of an hour of nothing
	$(BIN)/python -m benchmarks.fairness --peers 1000 --hanging 50 --throttled 20 --turns 8 --seconds 600
	$(BIN)/python -m benchmarks.kills --kills 100 --facts 50000
	DIFFERENTIAL_ROUNDS=400 $(BIN)/python -m pytest tests/differential/test_generated.py
	DISTURBED_SECONDS=300 $(BIN)/python -m pytest tests/e2e/test_daemon_disturbed.py
	SESSION_HISTORIES=2000 $(BIN)/python -m pytest tests/unit/test_session_model.py
	$(BIN)/python -m benchmarks.idle --peers 200 --polls 24 --interval 30 --warm-up 2

check: $(STAMP) ## lint, format, types, import contracts, migrations against models
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tests.check_migrations

man: $(STAMP) ## write docs/stigmem-replicate.1 from the commands
	$(BIN)/python -m stigmem_replicator.cli.manual > docs/stigmem-replicate.1.new
	mv docs/stigmem-replicate.1.new docs/stigmem-replicate.1

lock: $(STAMP) ## resolve requirements/dev.txt anew; ARGS=--upgrade takes newer versions
	$(BIN)/uv pip compile pyproject.toml --extra dev --extra postgres --universal --python-version 3.11 \
		--generate-hashes --no-config --no-annotate --custom-compile-command "make lock" \
		--quiet --output-file requirements/dev.txt $(ARGS)

# What an operator may have changed, below /etc, is left as it is.
install-systemd: UNITS = $(DESTDIR)$(PREFIX)/lib/systemd/system
install-systemd: ETC = $(DESTDIR)/etc/stigmem-replicator
install-systemd: ## install the unit and what goes with it; DESTDIR=, PREFIX=, BINDIR=
	install -d $(UNITS) $(ETC)
	sed 's|^ExecStart=/usr/local/bin/|ExecStart=$(BINDIR)/|' systemd/stigmem-replicator.service \
		> $(UNITS)/stigmem-replicator.service
	chmod 644 $(UNITS)/stigmem-replicator.service
	install -D -m 644 systemd/sysusers.conf $(DESTDIR)$(PREFIX)/lib/sysusers.d/stigmem-replicator.conf
	install -D -m 644 systemd/tmpfiles.conf $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/stigmem-replicator.conf
	install -D -m 644 docs/stigmem-replicate.1 $(DESTDIR)$(PREFIX)/share/man/man1/stigmem-replicate.1
	rm -f $(UNITS)/stigmem-replicator.service.d/restart-delay.conf
	test 0$(SYSTEMD) -lt 254 || install -D -m 644 -t $(UNITS)/stigmem-replicator.service.d systemd/restart-delay.conf
	test -e $(ETC)/config.toml || install -m 644 systemd/config.toml.example $(ETC)/config.toml
	test -e $(ETC)/environment || install -m 600 systemd/environment.example $(ETC)/environment
	@test -n "$(DESTDIR)" -o -x $(BINDIR)/stigmem-replicate || \
		echo "$(BINDIR)/stigmem-replicate, which the unit starts, is not there yet" >&2
	@test -n "$(DESTDIR)" || echo "Next, as root: systemd-sysusers stigmem-replicator.conf &&" \
		"systemd-tmpfiles --create stigmem-replicator.conf && systemctl daemon-reload &&" \
		"systemctl enable --now stigmem-replicator"

clean: ## remove .venv and everything that tools leave behind
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): requirements/dev.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || \
		{ echo "$(PYTHON) is not installed: install Python 3.11 or newer, or name one: make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$$($(PYTHON) --version 2>&1) is too old: 3.11 or newer is needed; name one: make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "$(PYTHON) cannot make virtual environments: on Debian, apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

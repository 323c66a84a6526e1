# `make test` passes on a fresh Debian or Ubuntu with a Rust toolchain and a C compiler, as root: it installs what the tests need.

.DEFAULT_GOAL := help
CARGO ?= cargo
# What the live tests compare with: the standard tools, a Prometheus with its Alertmanager, the reference parser of
# OpenMetrics, a validator of JSON schemas; what renders the mixin; what counts instructions.
PACKAGES = bsdutils conntrack curl ethtool gzip iproute2 ipset iptables jsonnet libcap2-bin mount nftables prometheus \
	prometheus-alertmanager python3 python3-jsonschema python3-prometheus-client strace systemd util-linux valgrind
# Where it is not part of prometheus.
PROMTOOL = $$(apt-cache show promtool >/dev/null 2>&1 && echo promtool)
COMMANDS = bridge capsh conntrack curl ethtool gzip ip ip6tables-legacy-restore ip6tables-legacy-save ip6tables-nft-restore \
	ip6tables-nft-save ipset iptables iptables-legacy iptables-legacy-restore iptables-legacy-save iptables-nft iptables-nft-restore \
	iptables-nft-save jsonnet mount nft nstat prometheus prometheus-alertmanager promtool python3 script setpriv strace \
	systemd-analyze tc unshare valgrind
CARGO_DENY_VERSION = 0.20.2

# The differential tests, of tunnels and of connections: how many random set-ups, and which; or one of them alone.
CASES ?= 400
SEED ?= 2
CASE ?=

# Fuzzing: for how long, all targets together.
FUZZ_SECONDS ?= 60

# The versions test: where Prometheus of other Debian releases goes, and which.
PROMETHEUS ?= target/prometheus
PROMETHEUS_RELEASES ?= trixie sid

# Fresh roots: where they are made, and of which releases.
DEBIANS ?= target/debians
DEBIAN_RELEASES ?= bookworm trixie sid

# The kernel test: a directory with kernels to boot, and what that needs.
KERNELS ?=
KERNEL_PACKAGES = busybox-static conntrack cpio ethtool gzip iproute2 iptables kmod nftables qemu-system-x86 seabios
# The pictures of the dashboards: where they go, and how long traffic runs before.
OUT ?=
SECONDS_OF_TRAFFIC ?= 240
TARGET = $(shell rustc -vV | sed -n 's/^host: //p')

# A recorded node as the directory that `natwatch capture` wrote.
node:
	@test -n "$(NODE)" -a -n "$(DIR)" || { echo 'say which and where: make node NODE=flannel DIR=/tmp/flannel' >&2; exit 1; }
	tests/nodes/archive.py unpack tests/nodes/$(NODE).txt "$(DIR)"

.PHONY: build static bench bench-fleet measure-ports bench-flows test-estimates test quick fuzz test-tunnels test-connections test-faults test-debians test-prometheus-versions test-kernels test-packages test-deps dashboards-preview chart-files node check fmt clippy \
	doc deny golden help

help:
	@echo 'make build    the release binary'
	@echo 'make bench    the tables and the plot of docs/performance.md, as root; some minutes'
	@echo 'make bench-fleet                      the table of docs/fleet.md: rules and dashboard for 5,000 nodes; 45 minutes, 8 GiB'
	@echo 'make measure-ports [KERNELS=DIR]      the tables of docs/snat-ports.md: when source ports run out; as root, or in qemu'
	@echo 'make bench-flows                      the table about a million entries in docs/performance.md, as root; 10 minutes, 1 GiB'
	@echo 'make quick    formatting, lints, unit tests, goldens, documents: under a minute once built'
	@echo 'make test     all tests, as root; installs what they need'
	@echo 'make fuzz FUZZ_SECONDS=60             mutated answers of kernels, with cargo-fuzz where it is there'
	@echo 'make test-tunnels CASES=400 SEED=2    the verdict about tunnels against real packets, at length; CASE=32: one alone'
	@echo 'make test-connections CASES=400 SEED=2   the verdicts about connections, likewise'
	@echo 'make test-estimates FILLS=50          estimates of used source ports against whole tables'
	@echo 'make test-debians                     `make test` in fresh roots of Debian releases; hours'
	@echo 'make test-faults      every single answer of every recorded node made to fail in every way'
	@echo 'make test-prometheus-versions         the alerts on other versions of Prometheus, which it fetches'
	@echo 'make test-kernels KERNELS=DIR         verdict, probe and packets on other kernels, in qemu'
	@echo 'make dashboards-preview OUT=DIR       pictures of the dashboards; see dashboards/preview/README.md'
	@echo 'make test-packages                    chart, image, Debian package and units, with the real tools (docs/packages.md)'
	@echo 'make check    formatting, lints, documentation, licences'
	@echo 'make golden   write the golden outputs anew; review the diff'
	@echo 'make node NODE=flannel DIR=DIR          a recorded node as a directory'
	@echo 'make chart-files                      copy rules and dashboards into the chart'

build:
	$(CARGO) build --release --locked

# What images and packages hold.
STATIC = $(abspath $(or $(CARGO_TARGET_DIR),target))/$(TARGET)/release/natwatch
static:
	RUSTFLAGS='-C target-feature=+crt-static' $(CARGO) build --release --locked --bin natwatch --target $(TARGET)

# node_exporter is unpacked beside, not installed: its package would start it.
BENCH_PEER = target/bench/node_exporter
bench: static test-deps $(BENCH_PEER)
	NATWATCH=$(STATIC) NODE_EXPORTER=$(abspath $(BENCH_PEER)) python3 benches/nodes.py
	NATWATCH=$(STATIC) python3 benches/scale.py

# A real Prometheus, whose targets are simulated; NODES=500 prints a smaller one.
NODES ?=
bench-fleet: build test-deps
	NATWATCH=$(abspath $(or $(CARGO_TARGET_DIR),target))/release/natwatch python3 benches/fleet.py $(if $(NODES),--nodes $(NODES),--write)

# At which share of used source ports new connections are lost, on this kernel, or on each of a directory (tests/kernels/debian.sh).
measure-ports: test-deps
	/usr/bin/python3 benches/snat_ports.py $(if $(KERNELS),--kernels $(KERNELS) --part fill --part time-wait --fills 0.15)

# nf_conntrack_max of the machine is raised meanwhile.
bench-flows: static test-deps
	NATWATCH=$(STATIC) /usr/bin/python3 benches/flows.py

$(BENCH_PEER):
	mkdir -p $(@D)
	cd $(@D) && apt-get download -q prometheus-node-exporter && dpkg -x prometheus-node-exporter_*.deb unpacked
	cp $(@D)/unpacked/usr/bin/prometheus-node-exporter $@

# Before each commit: what takes no privilege and no minute.
quick: fmt clippy
	$(CARGO) test --locked --lib
	$(CARGO) test --locked --test fast -- architecture:: circles:: golden:: docs:: netfilter::

test: test-deps
	$(CARGO) test --locked

test-tunnels: test-deps
	NATWATCH_CASES=$(CASES) NATWATCH_SEED=$(SEED) $(if $(CASE),NATWATCH_CASE=$(CASE)) $(CARGO) test --locked --test live tunnels:: -- --nocapture

test-connections: test-deps
	NATWATCH_CASES=$(CASES) NATWATCH_SEED=$(SEED) $(if $(CASE),NATWATCH_CASE=$(CASE)) $(CARGO) test --locked --test live connections:: -- --nocapture

FILLS ?= 50
test-estimates: test-deps
	NATWATCH_FILLS=$(FILLS) $(CARGO) test --locked --test live flows::estimates -- --nocapture

# Needs nothing but a compiler; coverage tells cargo-fuzz where to go on, which needs a nightly one.
FUZZ_TARGETS = $(patsubst fuzz/fuzz_targets/%.rs,%,$(wildcard fuzz/fuzz_targets/*.rs))
fuzz:
	@if $(CARGO) +nightly fuzz --version >/dev/null 2>&1; then \
		$(CARGO) test --locked --test fast fuzz::corpus_is_written -- --ignored || exit 1; \
		for target in $(FUZZ_TARGETS); do \
			$(CARGO) +nightly fuzz run $$target -- -max_len=16384 -max_total_time=$$(( $(FUZZ_SECONDS) / $(words $(FUZZ_TARGETS)) + 1 )) || exit 1; \
		done; \
	else \
		echo 'fuzz: no nightly compiler with cargo-fuzz here, so mutated seeds without coverage'; \
		NATWATCH_FUZZ_SECONDS=$(FUZZ_SECONDS) $(CARGO) test --locked --test fast fuzz:: -- --nocapture; \
	fi

# What a fresh machine of each release makes of `make test` (docs/packages.md).
test-debians:
	tests/debians/run.sh $(DEBIANS) $(DEBIAN_RELEASES)

# Every fault in every answer of every recorded node; CI plays a few of each kind.
test-faults: test-deps
	NATWATCH_FAULTS=all $(CARGO) test --release --locked --test live faults:: -- --nocapture

# The same tests, with another promtool and prometheus before those of the system.
test-prometheus-versions: test-deps
	tests/prometheus/fetch.sh $(PROMETHEUS) $(PROMETHEUS_RELEASES)
	set -e; for release in $(PROMETHEUS_RELEASES); do \
		export PATH="$(abspath $(PROMETHEUS))/$$release/usr/bin:$$PATH"; \
		prometheus --version 2>&1 | head -1; promtool check rules --lint=all deploy/prometheus/*.rules.yaml; \
		promtool test rules deploy/prometheus/tests/*.yaml; $(CARGO) test --locked --test ship alerts::; \
	done

# A static natwatch is booted with each of the kernels; tests/kernels/build.sh and debian.sh make some.
test-kernels:
	@test -n "$(KERNELS)" || { echo 'say which: make test-kernels KERNELS=DIR' >&2; exit 1; }
	@for command in busybox conntrack cpio ethtool ip nft qemu-system-x86_64 xtables-legacy-multi xtables-nft-multi; do command -v $$command >/dev/null || missing=1; done; \
	if [ -n "$$missing" ]; then \
		export DEBIAN_FRONTEND=noninteractive; \
		apt-get update -q && apt-get install -q -y --no-install-recommends $(KERNEL_PACKAGES); \
	fi
	$(MAKE) static
	NATWATCH_KERNELS=$(abspath $(KERNELS)) NATWATCH_STATIC=$(STATIC) \
		$(CARGO) test --locked --test ship kernels:: -- --ignored --nocapture

# Needs Node.js, npm, curl and Chromium beside what the tests need.
dashboards-preview: test-deps
	@test -n "$(OUT)" || { echo 'say where: make dashboards-preview OUT=DIR' >&2; exit 1; }
	NATWATCH_PREVIEW=$(abspath $(OUT)) NATWATCH_PREVIEW_SECONDS=$(SECONDS_OF_TRAFFIC) \
		$(CARGO) test --locked --test ship dashboards::preview -- --ignored --nocapture

# Chart, image, Debian package and units; NATWATCH_STATIC=FILE is a static natwatch that need not be built.
test-packages:
	tests/packages/run.sh

# Helm packs only what lies in the chart; tests/ship/deploy.rs holds the copies against the originals.
CHART_FILES = deploy/helm/natwatch/files
chart-files:
	rm -f $(CHART_FILES)/rules/*.yaml $(CHART_FILES)/dashboards/*.json
	cp deploy/prometheus/*.yaml $(CHART_FILES)/rules/
	cp dashboards/*.json $(CHART_FILES)/dashboards/

test-deps:
	@missing=; for command in $(COMMANDS); do command -v $$command >/dev/null || missing="$$missing $$command"; done; \
	for module in jsonschema prometheus_client.openmetrics.parser; do \
		/usr/bin/python3 -c "import $$module" 2>/dev/null || missing="$$missing $$module"; \
	done; \
	if [ -n "$$missing" ]; then \
		echo "installing what is missing:$$missing"; \
		export DEBIAN_FRONTEND=noninteractive; \
		apt-get update -q && apt-get install -q -y --no-install-recommends $(PACKAGES) $(PROMTOOL); \
	fi

check: fmt clippy doc deny

fmt:
	$(CARGO) fmt --check

clippy:
	$(CARGO) clippy --locked --all-targets -- -D warnings

doc:
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps --document-private-items

# Licences, sources and bans. The advisory database is not part of it; crates for other systems are fetched for their licences.
deny:
	@$(CARGO) deny --version >/dev/null 2>&1 || $(CARGO) install --locked cargo-deny@$(CARGO_DENY_VERSION)
	$(CARGO) fetch --locked
	$(CARGO) deny --offline check licenses bans sources
	@if timeout 120 $(CARGO) deny fetch db >/dev/null 2>&1; then $(CARGO) deny --offline check advisories; else \
		echo 'deny: advisories were NOT checked: the database of RustSec cannot be had from here'; fi

golden:
	GOLDEN=write $(CARGO) test --locked --test fast -- golden:: docs::
	$(MAKE) chart-files

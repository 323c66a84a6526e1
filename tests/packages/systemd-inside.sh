#!/bin/bash
# Runs in the booted root of systemd.sh, as root, after multi-user.target.
set -euo pipefail

fail() {
	echo "FAILED: $*"
	journalctl --no-pager -n 60 -u 'natwatch*' | grep -v 'level=info' | cut -c1-300 || true
	exit 1
}

# get PATH: the body, from a service that may be starting.
get() {
	exec 3<>/dev/tcp/127.0.0.1/10077
	printf 'GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' "$1" >&3
	timeout 30 cat <&3 | tr -d '\r' >/run/answer
	exec 3>&-
	grep -q '^HTTP/1.1 200' /run/answer || fail "$1: $(head -n 1 /run/answer)"
	sed '1,/^$/d' /run/answer
}

has() {
	grep -qxF -- "$1" /run/metrics || fail "no $1: $(grep '^natwatch_source_info.* 1$' /run/metrics)"
}

pid() {
	systemctl show --value --property MainPID natwatch.service
}

echo "$(systemctl --version | head -n 1), $(systemctl is-system-running || true)"
nft -f - <<'RULES'
table ip nat {
	chain postrouting {
		type nat hook postrouting priority srcnat
		oifname != "lo" counter masquerade random
	}
}
RULES

# Enabled and started by the package.
systemctl is-active natwatch.socket natwatch.service || fail "not started"
# The container is not the node.
echo 'NATWATCH_ARGS=--network-namespace current' >/etc/default/natwatch
systemctl restart natwatch.service || fail "no restart"

get /metrics >/run/metrics
has 'natwatch_source_info{source="nftables",state="ok"} 1'
has 'natwatch_source_info{source="xtables_ipv4",state="ok"} 1'
has 'natwatch_source_info{source="proc_conntrack",state="ok"} 1'
grep -q '^natwatch_source_nat_rules{.*port_randomization="random"} 1$' /run/metrics || fail "the rule is not there"
grep -q '^natwatch_exposure{advisory="conntrack-table-full"} ' /run/metrics || fail "no verdict about the table"
echo "sandboxed, it sees $(grep -c '^natwatch_' /run/metrics) series"

status() { awk -v key="$1:" '$1 == key { print $2 }' "/proc/$(pid)/status"; }
[ "$(status Uid)" != 0 ] || fail "it runs as root"
[ "$(status CapEff)" = 0000000000001000 ] || fail "capabilities $(status CapEff)"
[ "$(status CapBnd)" = 0000000000001000 ] || fail "bounding set $(status CapBnd)"
[ "$(status NoNewPrivs)" = 1 ] && [ "$(status Seccomp)" = 2 ] || fail "no_new_privs $(status NoNewPrivs), seccomp $(status Seccomp)"
echo "uid $(status Uid), CAP_NET_ADMIN and nothing else, $(awk '$1 == "VmHWM:" { print $2, $3 }' "/proc/$(pid)/status") at most"

# A crash is mended; while it is away the socket keeps the port, and a connection brings it back.
before=$(pid)
kill -KILL "$before"
get /-/healthy >/dev/null
[ "$(pid)" != "$before" ] || fail "not restarted"
systemctl stop natwatch.service 2>/dev/null
[ "$(pid)" = 0 ] || fail "not stopped"
get /-/healthy >/dev/null
systemctl is-active --quiet natwatch.service || fail "not started by a connection"
echo "restarted after SIGKILL; started by a connection"

# The probe, then a natwatch that knows what it found.
echo 'NATWATCH_ARGS=--network-namespace current' >/etc/default/natwatch
systemctl start natwatch-probe.service || fail "the probe: $(systemctl status --no-pager natwatch-probe.service)"
grep -A 1 '"id"' /run/natwatch/probe.json | grep -v -- -- | paste - - | sed 's/[",]//g; s/  */ /g'
systemctl restart natwatch.service
get /metrics >/run/metrics
grep -q '^natwatch_kernel_defect_info{defect="nat-port-rover",.*basis="probe"} 1$' /run/metrics || fail "the probe is not used"
# At boot the probe comes first, if it is enabled.
systemctl enable --quiet natwatch-probe.service
systemctl show --value --property After natwatch.service | grep -qw natwatch-probe.service || fail "the probe is not before natwatch"

# The textfile collector.
mkdir -p /var/lib/prometheus/node-exporter
echo 'NATWATCH_CHECK_ARGS=--network-namespace current' >>/etc/default/natwatch
systemctl start natwatch-textfile.service || fail "$(systemctl status --no-pager natwatch-textfile.service)"
cd /var/lib/prometheus/node-exporter
[ "$(ls -A)" = natwatch.prom ] || fail "$(ls -lA)"
cp natwatch.prom /run/metrics
has 'natwatch_source_info{source="nftables",state="ok"} 1'
systemctl enable --quiet --now natwatch-textfile.timer
systemctl list-timers --no-pager natwatch-textfile.timer | head -n 2

failed=$(systemctl list-units --failed --no-legend --plain 'natwatch*' | awk '{ print $1 }')
[ -z "$failed" ] || fail "failed: $failed"
journalctl --no-pager -u 'natwatch*' | grep -i 'unknown lvalue\|unknown key\|failed to' && fail "systemd complains"
echo "inside: passed"

#!/usr/bin/env bash
# `make test` in fresh Debian roots, as root: run.sh DIR [RELEASE ...]; docs/packages.md tells what it printed.
#
# A root is what debootstrap's minimal variant makes of a release, with what README announces: make, a C compiler and the
# Rust toolchain, which is this machine's, mounted read-only. In it: a clone of what is committed here, the crates of
# Cargo.lock as they were downloaded here, nothing that was built. It becomes the root of mount and pid namespaces of its
# own (by pivot_root, because a process that is chrooted may not make user namespaces) with an empty /run. Not fresh are
# the kernel, /sys, /dev and the network, which apt needs; the tests make network namespaces of their own. Nobody has
# booted it: services do not run.
#
# NATWATCH_TEST='cargo test --locked --test live quiet::' runs that instead of `make test`, after `make test-deps`.
# NATWATCH_HOURS bounds each root (2). NATWATCH_KEEP=1 keeps roots; a kept one is used again, and is not fresh.
set -euo pipefail
export LC_ALL=C
if [ "${1:-}" = --inside ]; then
	root=$2
	# All of it is gone with the namespaces.
	mount --rbind "$root" "$root"
	mount --bind -o ro "$3" "$root/usr/local/rust"
	mount -t proc proc "$root/proc"
	mount --rbind /sys "$root/sys"
	mount --rbind /dev "$root/dev"
	lock=/run/natwatch-live-tests.lock
	: >>"$lock"
	mount -t tmpfs -o mode=755 tmpfs "$root/run"
	# Tests that need the whole machine wait for those outside too.
	: >"$root$lock"
	mount --bind "$lock" "$root$lock"
	mkdir "$root/run/old"
	cd "$root"
	pivot_root . run/old
	cd /
	umount -l /run/old
	cd /root/natwatch
	pass=()
	for setting in http_proxy https_proxy no_proxy; do
		[ -z "${!setting:-}" ] || pass+=("$setting=${!setting}")
	done
	exec env -i "${pass[@]}" HOME=/root LC_ALL=C.UTF-8 CARGO_HOME=/root/cargo CARGO_NET_OFFLINE=true NATWATCH_TEST="${NATWATCH_TEST:-}" \
		PATH=/usr/local/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin bash -c '
			TIMEFORMAT="time: %R s, processors %U + %S s"
			time if [ -n "$NATWATCH_TEST" ]; then make test-deps && eval "$NATWATCH_TEST"; else make test; fi
			status=$?
			echo "strace: $(strace -V | sed -n "s/.*version //p")"
			echo "promtool: $(dpkg -S "$(command -v promtool)" | cut -d: -f1) $(promtool --version 2>&1 | sed -n "1s/.*version \([^ ]*\).*/\1/p")"
			exit $status' </dev/null
fi

here=$(dirname "$(readlink -f "$0")")
repository=$(dirname "$(dirname "$here")")
out=${1:?usage: run.sh DIR [RELEASE ...]}
shift
[ $# -gt 0 ] || set -- bookworm trixie sid
mkdir -p "$out"
out=$(readlink -f "$out")
command -v debootstrap >/dev/null || {
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -q && apt-get install -q -y --no-install-recommends debootstrap
} >"$out/apt.log" 2>&1
archive=$(apt-get indextargets --format '$(SITE) $(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' \
	| awk '$2 !~ /security/ { print $2; exit }')
[ -n "$archive" ] || { echo 'apt knows no Debian archive' >&2; exit 1; }
toolchain=$(rustc --print sysroot)
(cd "$repository" && cargo fetch --locked -q)
crates=${CARGO_HOME:-$HOME/.cargo}/registry

table=()
failed=0
for release in "$@"; do
	tree=$out/$release log=$out/$release.log
	[ -n "${NATWATCH_KEEP:-}" ] || rm -rf --one-file-system "$tree"
	if [ ! -e "$tree/root/made" ]; then
		rm -rf --one-file-system "$tree"
		timeout 1800 debootstrap --variant=minbase --include=ca-certificates,gcc,libc6-dev,make "$release" "$tree" "$archive" \
			>"$log" 2>&1 || { tail -n 5 "$log" >&2; exit 1; }
		# How this machine reaches the archive, and whether it may be an old copy.
		apt-config dump | grep -E '^Acquire::(Check-(Valid-Until|Date)|https?::Proxy) ' >"$tree/etc/apt/apt.conf.d/80host" || true
		cp --remove-destination /etc/resolv.conf /etc/hosts "$tree/etc/"
		# Nothing is started by being installed.
		printf '#!/bin/sh\nexit 101\n' >"$tree/usr/sbin/policy-rc.d"
		chmod +x "$tree/usr/sbin/policy-rc.d"
		mkdir -p "$tree/usr/local/rust" "$tree/root/cargo/registry"
		cp -a "$crates"/{index,cache} "$tree/root/cargo/registry/"
		touch "$tree/root/made"
	fi
	rm -rf "$tree/root/natwatch"
	git clone -q "$repository" "$tree/root/natwatch"
	echo "== $release: $(cat "$tree/etc/debian_version"), $(git -C "$tree/root/natwatch" log -1 --format=%h)"
	status=0
	timeout --kill-after=60 "${NATWATCH_HOURS:-2}h" unshare --mount --propagation private --pid --fork --kill-child \
		"$here/run.sh" --inside "$tree" "$toolchain" >"$log" 2>&1 || status=$?
	passed=$(grep -c '^test .* \.\.\. ok$' "$log" || true)
	[ "$status" = 0 ] && result="passed" || { result="FAILED ($status)"; failed=1; tail -n 40 "$log"; }
	told() { sed -n "s/^$1: //p" "$log" | tail -n 1; }
	used=$(du -shx "$tree/root/natwatch/target" 2>/dev/null | cut -f1)
	row="$release | $(told strace) | $(told promtool) | $result, $passed tests | $(told time) | $used"
	echo "$row"
	table+=("$row")
	[ -n "${NATWATCH_KEEP:-}" ] || rm -rf --one-file-system "$tree"
done
printf '\nrelease | strace | promtool | result | time | target/\n'
printf '%s\n' "${table[@]}"
exit "$failed"

#!/usr/bin/env bash
# Fetches the Prometheus of other Debian releases without installing it: fetch.sh DIR [RELEASE ...]
# Each becomes DIR/RELEASE/usr/bin/{prometheus,promtool}. The archive is the one that this machine's apt uses.
set -euo pipefail
out=${1:?usage: fetch.sh DIR [RELEASE ...]}
shift
[ $# -gt 0 ] || set -- trixie sid
mkdir -p "$out"
out=$(readlink -f "$out")
archive=$(apt-get indextargets --format '$(SITE) $(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' \
	| awk '$2 !~ /security/ { print $2; exit }')
[ -n "$archive" ] || { echo 'apt knows no Debian archive' >&2; exit 1; }
for release in "$@"; do
	root=$out/$release
	[ ! -x "$root/usr/bin/promtool" ] || continue
	mkdir -p "$root/apt/lists/partial" "$root/apt/cache/archives/partial" "$root/apt/none" "$root/deb"
	: >"$root/apt/status"
	echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $archive $release main" >"$root/apt/sources"
	options=(-q -o "Dir::State::Lists=$root/apt/lists" -o "Dir::State::status=$root/apt/status" -o "Dir::Cache=$root/apt/cache"
		-o "Dir::Etc::SourceList=$root/apt/sources" -o "Dir::Etc::SourceParts=$root/apt/none"
		-o Dir::Etc::Preferences=/dev/null -o "Dir::Etc::PreferencesParts=$root/apt/none"
		-o APT::Sandbox::User=root -o Acquire::Languages=none)
	apt-get "${options[@]}" update
	(cd "$root/deb" && apt-get "${options[@]}" download prometheus)
	# In newer releases promtool is a package of its own.
	if ! dpkg --contents "$root"/deb/prometheus_*.deb | grep -q bin/promtool; then
		(cd "$root/deb" && apt-get "${options[@]}" download promtool)
	fi
	for package in "$root"/deb/*.deb; do dpkg -x "$package" "$root"; done
	rm -rf "$root/apt" "$root/deb"
done

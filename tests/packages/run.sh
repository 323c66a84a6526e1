#!/usr/bin/env bash
# All of it, as root; installs what it needs. docs/packages.md tells what it printed.
. "$(dirname "$(readlink -f "$0")")/lib.sh"
static_binary
export NATWATCH_STATIC=$binary NATWATCH_PACKAGES=$work
for script in chart image debian systemd; do
	"$here/$script.sh"
done
echo "packages: passed"

#!/usr/bin/env bash
# Builds a Debian package: deploy/debian/build.sh [BINARY]
#
# BINARY is a natwatch that runs here, best a static one, so that the package fits every Debian and Ubuntu; without it one
# is built. Prints where the package is. Needs cargo-deb (`cargo install cargo-deb`).
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/../.."
if [ $# -gt 0 ]; then
	binary=$(readlink -f "$1")
else
	host=$(rustc -vV | sed -n 's/^host: //p')
	RUSTFLAGS='-C target-feature=+crt-static' cargo build --release --locked --bin natwatch --target "$host" >&2
	binary=${CARGO_TARGET_DIR:-target}/$host/release/natwatch
fi

made=target/debian
rm -rf "$made"
mkdir -p "$made"
install -s -m 755 "$binary" "$made/natwatch"
"$binary" manpage >"$made/natwatch.1"
"$binary" completions bash >"$made/natwatch.bash"
"$binary" completions zsh >"$made/_natwatch"
"$binary" completions fish >"$made/natwatch.fish"
cargo deb --no-build --no-strip --output "$made/" >&2
ls "$PWD/$made"/*.deb

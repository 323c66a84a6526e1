# Sourced by the scripts beside it.
set -euo pipefail
export LC_ALL=C
here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
root=$(dirname "$(dirname "$here")")
# What is downloaded and built stays here: the next run is quicker.
work=$(readlink -m "${NATWATCH_PACKAGES:-$root/target/packages}")
mkdir -p "$work"

fail() {
	echo "FAILED: $*" >&2
	exit 1
}

say() {
	printf '\n== %s\n' "$*"
}

# need COMMAND=PACKAGE…: installs the packages whose commands are missing.
need() {
	local pair missing=()
	for pair in "$@"; do
		command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
	done
	[ ${#missing[@]} -eq 0 ] && return
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -q >"$work/apt.log" 2>&1 && apt-get install -q -y --no-install-recommends "${missing[@]}" >>"$work/apt.log" 2>&1 ||
		fail "apt-get install ${missing[*]}: $(tail -n 3 "$work/apt.log")"
}

# The static natwatch that is packed: NATWATCH_STATIC, or one that is built.
static_binary() {
	if [ -z "${NATWATCH_STATIC:-}" ]; then
		local host
		host=$(rustc -vV | sed -n 's/^host: //p')
		(cd "$root" && RUSTFLAGS='-C target-feature=+crt-static' cargo build --release --locked --bin natwatch --target "$host" >&2)
		NATWATCH_STATIC=$(readlink -m "$root/${CARGO_TARGET_DIR:-target}")/$host/release/natwatch
		[ -z "${CARGO_TARGET_DIR:-}" ] || NATWATCH_STATIC=$(readlink -f "$CARGO_TARGET_DIR")/$host/release/natwatch
	fi
	binary=$(readlink -f "$NATWATCH_STATIC")
	"$binary" --version >/dev/null || fail "$binary does not run"
}

# debian NAME PACKAGE…: a root file system $work/NAME of this Debian, made once.
debian() {
	local name=$1 tree=$work/$1
	shift
	need debootstrap=debootstrap
	[ -e "$tree/.complete" ] && return
	rm -rf "$tree"
	local packages release
	packages=$(IFS=,; echo "$*")
	release=$(. /etc/os-release && echo "$VERSION_CODENAME")
	debootstrap --variant=minbase ${packages:+--include="$packages"} "$release" "$tree" >"$work/debootstrap-$name.log" 2>&1 ||
		fail "debootstrap $name: $(tail -n 3 "$work/debootstrap-$name.log")"
	apt-get --version >/dev/null && touch "$tree/.complete"
}

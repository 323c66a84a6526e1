#!/usr/bin/env bash
# The Dockerfile: linted, built as it stands and run as its first lines say. There is no registry here, so the base image
# is a stand-in of that name: this Debian with this toolchain and the crates of Cargo.lock, and no network.
# NATWATCH_IMAGE_BUILT=1 runs the image of the last time.
. "$(dirname "$(readlink -f "$0")")/tools.sh"
need buildah=buildah podman=podman runc=runc curl=curl ip=iproute2 nft=nftables

say "hadolint $(hadolint --version | head -n 1)"
hadolint "$root/Dockerfile"
say "checkov on the Dockerfile"
# CKV_DOCKER_2 wants a HEALTHCHECK: there is no client in the image, and Kubernetes and Docker users have the endpoints.
checkov --quiet --compact --skip-download --framework dockerfile --file "$root/Dockerfile" --skip-check CKV_DOCKER_2

store=(--root "$work/storage" --runroot "/run/natwatch-packages")
containers() { podman "${store[@]}" --cgroup-manager cgroupfs --runtime runc "$@"; }

image=localhost/natwatch:test
if [ -z "${NATWATCH_IMAGE_BUILT:-}" ]; then
	version=$(sed -n 's/^ARG RUST_VERSION=//p' "$root/Dockerfile")
	base=rust:$version-slim-bookworm
	if ! buildah "${store[@]}" inspect "localhost/$base" >/dev/null 2>&1; then
		say "a stand-in for $base"
		debian rust gcc libc6-dev
		toolchain=$(rustc --print sysroot)
		mkdir -p "$work/rust/usr/local/cargo/registry"
		cp -a "$toolchain/bin" "$toolchain/lib" "$work/rust/usr/local/"
		(cd "$root" && cargo fetch --locked -q)
		cp -a "${CARGO_HOME:-$HOME/.cargo}"/registry/{index,cache} "$work/rust/usr/local/cargo/registry/"
		container=$(buildah "${store[@]}" from scratch)
		buildah "${store[@]}" copy -q "$container" "$work/rust" / >/dev/null
		buildah "${store[@]}" config --env CARGO_HOME=/usr/local/cargo --env CARGO_NET_OFFLINE=true \
			--env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
		buildah "${store[@]}" commit -q --rm "$container" "localhost/$base" >/dev/null
	fi

	say "buildah bud ($(buildah --version))"
	revision=$(git -C "$root" rev-parse HEAD 2>/dev/null || true)
	start=$SECONDS
	buildah "${store[@]}" bud --layers --isolation chroot --pull-never --build-arg "REVISION=$revision" \
		--tag "$image" "$root" >"$work/image-build.log" 2>&1 || fail "$(tail -n 20 "$work/image-build.log")"
	echo "built in $((SECONDS - start)) s"
fi
containers image inspect "$image" --format '{{.Architecture}} {{.Size}} bytes, user {{.User}}, {{json .Config.Labels}}'
mounted=$(containers image mount "$image")
find "$mounted" -type f -printf '%P %s\n' | tee "$work/image-files"
[ "$(cut -d' ' -f1 "$work/image-files" | sort | xargs)" = "usr/bin/natwatch usr/share/doc/natwatch/LICENSE usr/share/doc/natwatch/LICENSE-APACHE usr/share/doc/natwatch/LICENSE-MIT" ] ||
	fail "other files than expected"
containers image unmount "$image" >/dev/null

say "podman run ($(podman --version))"
ns=natwatch-image-$$
trap 'containers rm -f natwatch-test >/dev/null 2>&1; ip netns del $ns' EXIT
ip netns add "$ns"
ip -n "$ns" link set lo up
ip netns exec "$ns" nft -f - <<'RULES'
table ip nat {
	chain postrouting {
		type nat hook postrouting priority srcnat
		oifname != "lo" counter masquerade random
	}
}
RULES
# As Kubernetes and the Dockerfile run it; the namespace stands for the node's.
locked=(--rm --name natwatch-test --network host --read-only --read-only-tmpfs=false --security-opt no-new-privileges
	--cap-drop ALL --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 --volume /etc/os-release:/host/etc/os-release:ro)
run() { nsenter --net="/run/netns/$ns" podman "${store[@]}" --cgroup-manager cgroupfs --runtime runc run "${locked[@]}" "$@"; }
scrape() { ip netns exec "$ns" curl -sf --retry 50 --retry-delay 1 --retry-connrefused "http://127.0.0.1:10077$1"; }
expect() { grep -qxF -- "$1" "$work/scrape" || fail "no $1 in the scrape: $(grep source_info "$work/scrape" | grep ' 1$')"; }

serve() {
	run --detach "$@" serve --path.rootfs=/host --network-namespace current >/dev/null
	scrape /-/healthy >/dev/null
	scrape /metrics >"$work/scrape"
	containers stop -t 10 natwatch-test >/dev/null
	echo "$(grep -c '^natwatch_' "$work/scrape") series"
}

echo "uid 0 with NET_ADMIN:"
serve --user 0:0 --cap-add NET_ADMIN "$image"
expect 'natwatch_source_info{source="nftables",state="ok"} 1'
expect 'natwatch_source_info{source="xtables_ipv4",state="ok"} 1'
grep -q '^natwatch_source_nat_rules{.*port_randomization="random"} 1$' "$work/scrape" || fail "the rule is not there"
distro=$(. /etc/os-release && echo "$ID $VERSION_ID")
grep -q "^natwatch_kernel_info{.*distro=\"$distro\"" "$work/scrape" || fail "no distro"

echo "the image's own user, no capability:"
serve "$image"
expect 'natwatch_source_info{source="nftables",state="denied"} 1'
expect 'natwatch_source_info{source="proc_conntrack",state="ok"} 1'
grep -q '^natwatch_advisory_unseen{advisory="snat-port-race",' "$work/scrape" || fail "rules that may not be read are not missed"

echo "one look, by exit code:"
code=0
run --user 0:0 --cap-add NET_ADMIN "$image" check --format npd --network-namespace current || code=$?
[ "$code" -le 1 ] || fail "check --format npd: $code"

echo "the probe, with a directory to write to:"
mkdir -p "$work/probe"
code=0
run --user 0:0 --cap-add NET_ADMIN --cap-add NET_RAW --cap-add SYS_ADMIN --volume "$work/probe:/run/natwatch" "$image" \
	probe --format json --output /run/natwatch/probe.json || code=$?
case $code in 0 | 2 | 3) ;; *) fail "probe: $code" ;; esac
/usr/bin/python3 - "$work/probe/probe.json" <<'PY'
import json, sys
result = json.load(open(sys.argv[1]))
states = {defect["id"]: defect["state"] for defect in result["defects"]}
print(states)
assert states["nat-port-rover"] in ("absent", "present"), result
PY
echo "image: passed"

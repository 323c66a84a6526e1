# One static program and nothing else:
#
#   docker build --tag localhost/natwatch .
#   docker run --rm --network host --user 0 --cap-drop ALL --cap-add NET_ADMIN --security-opt no-new-privileges --read-only \
#     --volume /etc/os-release:/host/etc/os-release:ro localhost/natwatch serve --path.rootfs=/host
#
# For other architectures: docker buildx build --platform linux/amd64,linux/arm64 (compiled by cross compilers, not emulated).

ARG RUST_VERSION=1.95

# hadolint ignore=DL3029
FROM --platform=$BUILDPLATFORM rust:${RUST_VERSION}-slim-bookworm AS build
ARG TARGETARCH=amd64
WORKDIR /src
# The packages are those of the base image's Debian, whose release is part of its tag.
# hadolint ignore=DL3008
RUN set -eu; \
	case $TARGETARCH in \
		amd64) target=x86_64-unknown-linux-gnu gnu=x86-64-linux-gnu ;; \
		arm64) target=aarch64-unknown-linux-gnu gnu=aarch64-linux-gnu ;; \
		*) echo "no target is known for $TARGETARCH" >&2; exit 1 ;; \
	esac; \
	echo "$target" >/target; \
	if [ "$TARGETARCH" != "$(dpkg --print-architecture)" ]; then \
		apt-get update -q; \
		apt-get install -q -y --no-install-recommends "gcc-$gnu" "libc6-dev-$TARGETARCH-cross"; \
		rm -rf /var/lib/apt/lists/*; \
		rustup target add "$target"; \
		printf '[target.%s]\nlinker = "%s-linux-gnu-gcc"\n' "$target" "${target%%-*}" >"$CARGO_HOME/config.toml"; \
	fi
COPY . .
RUN set -eu; \
	target=$(cat /target); \
	RUSTFLAGS='-C target-feature=+crt-static' cargo build --release --locked --bin natwatch --target "$target"; \
	install -D -t /image/usr/bin "target/$target/release/natwatch"; \
	install -D -m 644 -t /image/usr/share/doc/natwatch LICENSE*

FROM scratch
ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="natwatch" \
	org.opencontainers.image.description="Prometheus exporter that shows why packets are lost on Linux NAT nodes" \
	org.opencontainers.image.version="$VERSION" \
	org.opencontainers.image.revision="$REVISION" \
	org.opencontainers.image.licenses="MIT OR Apache-2.0"
COPY --from=build /image /
# Everything but NAT rules is seen by any user; those need uid 0 and CAP_NET_ADMIN: run it with --user 0.
USER 65534:65534
EXPOSE 10077
ENTRYPOINT ["/usr/bin/natwatch"]
CMD ["serve"]

#!/usr/bin/env bash
# The Debian package: built, looked at, installed in a clean root, used there, removed and purged.
. "$(dirname "$(readlink -f "$0")")/lib.sh"
need dpkg-deb=dpkg lintian=lintian mandoc=mandoc
cargo_deb=3.8.0
export PATH=$PATH:$work/cargo/bin
[ "$(cargo deb --version 2>/dev/null)" = "cargo-deb $cargo_deb" ] || cargo install --locked --force -q --root "$work/cargo" "cargo-deb@$cargo_deb"
static_binary

say "$(cargo deb --version)"
package=$("$root/deploy/debian/build.sh" "$binary" 2>"$work/deb.log" | tail -n 1) || fail "$(cat "$work/deb.log")"
dpkg-deb --info "$package"
dpkg-deb --contents "$package" | awk '{print $1, $2, $3, $6}'
say "lintian $(lintian --version)"
# There is no Debian source package, hence no changelog; the program is static on purpose, and its YAML parser is a
# translation of libyaml; the project has no address yet; the licences are in the package as the repository has them.
lintian --allow-root --tag-display-limit 0 --fail-on error --suppress-tags bogus-mail-host,copyright-not-using-common-license-for-apache2,embedded-library,no-changelog,statically-linked-binary "$package"

say "a clean root"
debian deb systemd man-db
tree=$work/deb-installed
rm -rf "$tree"
cp -a "$work/deb" "$tree"
cp "$package" "$tree/tmp/natwatch.deb"
inside() { chroot "$tree" env -i LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"; }
trap 'umount "$tree/proc" 2>/dev/null || true' EXIT
mount -t proc proc "$tree/proc"

inside dpkg -i /tmp/natwatch.deb
inside natwatch --version
code=0
inside natwatch check --format npd || code=$?
[ "$code" -le 2 ] || fail "check in the root: $code"
for file in /usr/share/man/man1/natwatch.1.gz /usr/share/bash-completion/completions/natwatch \
	/usr/share/zsh/vendor-completions/_natwatch /usr/share/fish/vendor_completions.d/natwatch.fish /etc/default/natwatch \
	/usr/lib/natwatch/natwatch-textfile; do
	inside test -s "$file" || fail "no $file"
done
inside sh -c '. /usr/share/bash-completion/completions/natwatch' 2>/dev/null || inside bash -c '. /usr/share/bash-completion/completions/natwatch'
gzip -dc "$tree/usr/share/man/man1/natwatch.1.gz" >"$work/natwatch.1"
mandoc -T lint -W warning "$work/natwatch.1" || true
inside man -l /usr/share/man/man1/natwatch.1.gz | head -n 12
for unit in natwatch.service natwatch.socket natwatch-probe.service natwatch-textfile.timer; do
	echo "$unit: $(inside systemctl is-enabled $unit || true)"
done
[ "$(inside systemctl is-enabled natwatch.socket)" = enabled ] || fail "natwatch.socket is not enabled"
[ "$(inside systemctl is-enabled natwatch-probe.service || true)" = disabled ] || fail "natwatch-probe.service is not disabled"

say "a changed /etc/default/natwatch survives an upgrade, and only a purge removes it"
echo 'NATWATCH_ARGS=--log.level=warn' >"$tree/etc/default/natwatch"
inside dpkg -i --force-confold /tmp/natwatch.deb >/dev/null
grep -q log.level=warn "$tree/etc/default/natwatch" || fail "overwritten"
inside dpkg -r natwatch >/dev/null
[ -e "$tree/etc/default/natwatch" ] || fail "removed"
[ ! -e "$tree/usr/bin/natwatch" ] || fail "still there"
inside dpkg -P natwatch >/dev/null
left=$(cd "$tree" && find . -xdev -path ./proc -prune -o -name '*natwatch*' -print | grep -v '^./tmp/' || true)
[ -z "$left" ] || fail "left behind: $left"
echo "debian: passed"

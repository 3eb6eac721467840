#!/bin/bash
# build.sh PROGRAM OUTDIR: a Debian package around PROGRAM: the program, its unit (not enabled), its user,
# its settings as conffiles, its documentation. Build it on the release that it is for: dependencies
# are those libraries, at least in those versions, that PROGRAM was linked with.
# needs: dpkg-dev, binutils. exit: 0 built, its path on standard output; 1 failed, 2 usage, 77 no dpkg-dev.
set -euo pipefail
[ $# = 2 ] && [ -x "$1" ] || { sed -n '2,5s/^# \{0,1\}//p' "$0" >&2; exit 2; }
command -v dpkg-shlibdeps >/dev/null || { echo 'build: dpkg-dev is not installed' >&2; exit 77; }
here=$(cd "$(dirname "$0")" && pwd)
repository=$(cd "$here/../.." && pwd)
program=$1
mkdir -p "$2"
out=$(cd "$2" && pwd)
version=$(sed -n '/^\[workspace.package\]/,/^$/s/^version = "\(.*\)"/\1/p' "$repository/Cargo.toml")
architecture=$(dpkg --print-architecture)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/kaplan

install -d "$root/DEBIAN" "$root/usr/bin"
strip --strip-all -o "$root/usr/bin/kaplan" "$program"
chmod 0755 "$root/usr/bin/kaplan"
install -D -m 0644 "$here/../systemd/kaplan.service" "$root/usr/lib/systemd/system/kaplan.service"
install -D -m 0644 "$here/../systemd/kaplan.sysusers" "$root/usr/lib/sysusers.d/kaplan.conf"
install -D -m 0644 "$here/../systemd/kaplan.toml" "$root/etc/kaplan/kaplan.toml"
install -D -m 0644 "$repository/docs/operations.md" "$root/usr/share/doc/kaplan/operations.md"
install -D -m 0644 "$here/copyright" "$root/usr/share/doc/kaplan/copyright"
install -m 0755 "$here/postinst" "$here/prerm" "$root/DEBIAN/"
echo /etc/kaplan/kaplan.toml >"$root/DEBIAN/conffiles"

mkdir "$work/debian"
printf 'Source: kaplan\n\nPackage: kaplan\nArchitecture: any\n' >"$work/debian/control"
depends=$(cd "$work" && dpkg-shlibdeps -O "$root/usr/bin/kaplan" 2>/dev/null | sed 's/^shlibs:Depends=//')
cat >"$root/DEBIAN/control" <<CONTROL
Package: kaplan
Version: $version
Architecture: $architecture
Maintainer: Kaplan's authors <kaplan@localhost>
Section: database
Priority: optional
Depends: $depends, ca-certificates, systemd
Installed-Size: $(du -sk --exclude=DEBIAN "$root" | cut -f1)
Description: data platform for events
 Streams and views are declared in SQL; each view runs as Lambda (batch, speed
 and serving layer) or as Kappa (one stream processor over one log), by one word
 in its definition. The answers are the same, and VERIFY proves it.
CONTROL
(cd "$root" && find . -type f ! -path './DEBIAN/*' -printf '%P\0' | sort -z | xargs -0 md5sum) >"$root/DEBIAN/md5sums"
package=$out/kaplan_${version}_$architecture.deb
dpkg-deb --root-owner-group -Zxz -z1 --build "$root" "$package" >/dev/null
echo "$package"

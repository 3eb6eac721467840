#!/bin/bash
# rootfs.sh PROGRAM OUT: write the content of the image into OUT/rootfs and OUT/home: PROGRAM stripped of
# its symbols, the libraries that the loader finds for it, certificates, the user, a list of parts.
# It refuses when a library is missing. Run it on the system that PROGRAM was linked on.
# needs: binutils (strip), ldd, ca-certificates; cargo and python3 for the list of parts.
set -euo pipefail
[ $# = 2 ] && [ -x "$1" ] || { sed -n '2,5s/^# \{0,1\}//p' "$0" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
repository=$(cd "$here/../.." && pwd)
program=$1 out=$2 root=$2/rootfs
certificates=/etc/ssl/certs/ca-certificates.crt
[ -s "$certificates" ] || { echo "rootfs: $certificates is missing: install ca-certificates" >&2; exit 1; }
rm -rf "${out:?}/rootfs" "${out:?}/home"
mkdir -p "$root"/{etc/ssl/certs,tmp,usr/bin,usr/share/doc/kaplan,var/lib} "$out/home/kaplan"
chmod 1777 "$root/tmp"
chmod 0750 "$out/home/kaplan"

strip --strip-all -o "$root/usr/bin/kaplan" "$program"
chmod 0755 "$root/usr/bin/kaplan"

# Each library at the path where the loader looks for it, links resolved.
libraries=$(ldd "$root/usr/bin/kaplan")
if grep -q 'not found' <<<"$libraries"; then
  grep 'not found' <<<"$libraries" >&2
  exit 1
fi
files=$(grep -o '/[^ ]*' <<<"$libraries" | grep -v '^/.*kaplan$' | sort -u)
for file in $files; do
  install -D -m 0755 -- "$(readlink -f "$file")" "$root$file"
done

cp "$certificates" "$root/etc/ssl/certs/"
cp "$repository/LICENSE" "$root/usr/share/doc/kaplan/"
echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
printf 'root:x:0:0::/:/nonexistent\nkaplan:x:65532:65532::/var/lib/kaplan:/nonexistent\n' >"$root/etc/passwd"
printf 'root:x:0:\nkaplan:x:65532:\n' >"$root/etc/group"
# shellcheck disable=SC2086  # paths of libraries have no spaces
"$here/sbom.py" $files >"$root/usr/share/doc/kaplan/kaplan.cdx.json"
chmod -R u+rwX,go+rX,go-w "$root"
chmod 1777 "$root/tmp"

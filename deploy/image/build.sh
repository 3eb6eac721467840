#!/bin/bash
# build.sh PROGRAM TAG OUTDIR: the image around PROGRAM, with no container engine and no base image to
# fetch, into OUTDIR/oci (OCI layout), OUTDIR/image.tar (docker load) and OUTDIR/rootfs (its files, as
# a container would see them).
# needs: apt buildah, skopeo; root. exit: 0 built, 1 failed, 2 usage, 77 buildah or skopeo is missing.
set -euo pipefail
[ $# = 3 ] && [ -x "$1" ] || { sed -n '2,5s/^# \{0,1\}//p' "$0" >&2; exit 2; }
for tool in buildah skopeo; do
  command -v $tool >/dev/null || { echo "build: $tool is not installed" >&2; exit 77; }
done
here=$(cd "$(dirname "$0")" && pwd)
program=$1 tag=$2
mkdir -p "$3"
out=$(cd "$3" && pwd)
store=$(mktemp -d)
b() { buildah --root "$store/root" --runroot "$store/run" --storage-driver vfs "$@"; }
container=
cleanup() {
  [ -z "$container" ] || { b umount "$container" && b rm "$container"; } >/dev/null 2>&1 || true
  rm -rf "$store"
}
trap cleanup EXIT

rm -rf "$out/oci" "$out/image.tar" "$out/rootfs" "$out/context"
"$here/rootfs.sh" "$program" "$out/context"
cp "$here/Dockerfile" "$out/context/"
revision=$(git -C "$here" rev-parse HEAD 2>/dev/null || echo unknown)
b bud --quiet --isolation chroot --format docker --layers=false \
  --build-arg "REVISION=$revision" -t "$tag" "$out/context" >/dev/null
b push -q "$tag" "oci:$out/oci:latest"
b push -q "$tag" "docker-archive:$out/image.tar:$tag"
container=$(b from "$tag")
cp -a "$(b mount "$container")/." "$out/rootfs"
rm -rf "$out/context"
skopeo inspect --config "oci:$out/oci:latest" >"$out/config.json"
echo "$tag: $(stat -c %s "$out/image.tar") bytes in $out/image.tar"

#!/bin/bash
# run.sh PROGRAM ARGUMENT..: rehearse.py with the image around PROGRAM: its files, as build.sh lays them out.
# needs: root, buildah, skopeo, and what rehearse.py needs. exit: as rehearse.py.
set -euo pipefail
[ $# -ge 1 ] && [ -x "$1" ] || { sed -n '2,3s/^# \{0,1\}//p' "$0" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=deploy/check/tools.sh
. "$here/../check/tools.sh"
install_packages buildah=buildah skopeo=skopeo openssl=openssl
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$here/../image/build.sh" "$1" kaplan:rehearsal "$work" >/dev/null
shift
"$here/rehearse.py" "$work/rootfs" "$@"

#!/bin/bash
# sandbox.sh ROOTFS [MEMORY_MIB] -- ARGUMENT..: run the image's program as Cloud Run would: its files as
# the root, read-only but for a memory disk on /tmp and on /var/lib/kaplan, as user 65532, with mounts of
# its own, the caller's environment and the host's loopback. This process becomes the program, so
# signals reach it. Memory is limited by the size of the address space, since a container cannot
# always make memory groups: 0, the default, is no limit.
# needs: root, and of util-linux unshare, setpriv, prlimit.
set -euo pipefail
[ $# -ge 2 ] && [ -d "$1" ] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
root=$(cd "$1" && pwd) memory=0
shift
[ "$1" = -- ] || { memory=$1; shift; }
[ "${1:-}" = -- ] && shift
limit=()
[ "$memory" = 0 ] || limit=(prlimit --as=$((memory * 1024 * 1024)))
export SANDBOX_ROOT=$root
# shellcheck disable=SC2016  # expanded inside
exec unshare --mount --propagation private bash -euc '
  root=$SANDBOX_ROOT
  unset SANDBOX_ROOT
  mkdir -p "$root/proc" "$root/dev"
  mount --bind "$root" "$root"
  mount -t proc -o ro,nosuid,nodev,noexec proc "$root/proc"
  mount --bind /dev "$root/dev"
  mount -o remount,bind,ro,nodev,nosuid "$root"
  mount -t tmpfs -o mode=1777,size=256m tmpfs "$root/tmp"
  mount -t tmpfs -o mode=0750,uid=65532,gid=65532,size=256m tmpfs "$root/var/lib/kaplan"
  cd "$root"
  exec "$@"' sandbox "${limit[@]}" \
  setpriv --no-new-privs /usr/sbin/chroot --userspec=65532:65532 --groups=65532 "$root" /usr/bin/kaplan "$@"

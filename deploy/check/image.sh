#!/bin/bash
# image.sh PROGRAM OUTDIR: build the image around PROGRAM without an engine, look at it, and run it as
# Cloud Run would: PORT, a read-only root, not root, no disk. It must get ready, do what smoke.sh asks
# of it, and end with 0 on SIGTERM.
# needs: root, buildah, skopeo, unshare, curl. exit: 0 it does, 1 it does not, 77 a tool is missing.
set -euo pipefail
[ $# = 2 ] && [ -x "$1" ] || { sed -n '2,5s/^# \{0,1\}//p' "$0" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
deploy=$(dirname "$here")
[ "$(id -u)" = 0 ] || { echo 'not root, which building without an engine needs'; exit 77; }
out=$2
"$deploy/image/build.sh" "$1" kaplan:check "$out"

fail() { echo "$*"; exit 1; }
[ ! -e "$out/rootfs/bin/sh" ] && [ ! -e "$out/rootfs/usr/bin/sh" ] || fail 'there is a shell in the image'
[ "$(stat -c %u "$out/rootfs/var/lib/kaplan")" = 65532 ] || fail 'the data directory is not the user'"'"'s'
[ "$(stat -c %a "$out/rootfs/tmp")" = 1777 ] || fail '/tmp is not for everybody'
python3 - "$out" <<'P'
import json, sys
out = sys.argv[1]
config = json.load(open(out + '/config.json'))['config']
assert config['User'] == '65532:65532', config
assert config['Entrypoint'] == ['/usr/bin/kaplan'] and config['Cmd'] == ['start'], config
assert config['Labels']['org.opencontainers.image.licenses'] == 'Apache-2.0', config
parts = json.load(open(out + '/rootfs/usr/share/doc/kaplan/kaplan.cdx.json'))['components']
names = {part['name'] for part in parts}
assert {'datafusion', 'object_store', 'libc6'} <= names and 'sqllogictest-engines' not in names, len(names)
P

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
env -i PORT="$port" KAPLAN_POSTGRES=off KAPLAN_LOG_FORMAT=json KAPLAN_DATA_DIR=/var/lib/kaplan \
  "$here/sandbox.sh" "$out/rootfs" -- start >"$out/log" 2>&1 &
pid=$!
trap 'kill -9 $pid 2>/dev/null || true' EXIT
"$deploy/smoke.sh" rehearse "http://127.0.0.1:$port" || { cat "$out/log"; exit 1; }
kill -TERM $pid
status=0
wait $pid || status=$?
[ $status = 0 ] || { cat "$out/log"; fail "exit $status on SIGTERM"; }
# Cloud Logging takes a line for an event when it is a JSON object.
python3 -c 'import json, sys
for line in sys.stdin: assert isinstance(json.loads(line), dict), line' <"$out/log"

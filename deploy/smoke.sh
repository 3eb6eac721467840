#!/bin/bash
# smoke.sh lsn URL | check URL [LSN] | rehearse URL: does the Kaplan at URL do its work?
#   lsn       prints the last durable commit.
#   check     reads only: it is ready, has at least the commits up to LSN, and no view has failed.
#   rehearse  writes: a stream, a Lambda and a Kappa view, events (some of them twice), a batch run,
#             and VERIFY. For an installation without data of its own: it refuses one that has streams.
# TOKEN, when set, goes along as a bearer token. WAIT_S: how long to wait for readiness (60).
# needs: curl, python3. exit: 0 it does, 1 it does not, 2 usage.
set -euo pipefail
usage() { sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2; }
[ $# -ge 2 ] || usage
command=$1 url=${2%/}
say() { echo "smoke: $*" >&2; }
get() { # get PATH [CURL ARGUMENT..]: the body; the server's own words when it refuses
  local path=$1
  shift
  curl -sS -m 60 --fail-with-body ${TOKEN:+-H "Authorization: Bearer $TOKEN"} "$@" "$url$path"
}
sql() { get /v1/sql -H 'content-type: text/plain' --data-binary "$1"; }
python() { python3 -c "import json, sys
answer = json.load(sys.stdin)
$1"; }

ready() {
  local until=$((SECONDS + ${WAIT_S:-60}))
  # Not /readyz: Google's front keeps some paths that end in z to itself.
  until get /ready >/dev/null 2>&1; do
    [ $SECONDS -lt $until ] || { say "$url is not ready: $(get /ready 2>&1 || true)"; return 1; }
    sleep 1
  done
}

check() {
  ready
  get /v1/status | LSN=${1:-0} python '
import os
failed = [v["name"] for v in answer["views"] if v["state"] == "failed"]
lsn, wanted = answer["durable_lsn"], int(os.environ["LSN"])
if lsn < wanted:
    sys.exit("smoke: the last commit is LSN %d, and LSN %d was acknowledged" % (lsn, wanted))
if failed:
    sys.exit("smoke: failed views: " + ", ".join(failed))'
  say "$url is ready, at LSN ${1:-0} or later, and no view has failed"
}

rehearse() {
  ready
  [ "$(get /v1/streams | python 'print(len(answer if isinstance(answer, list) else answer["streams"]))')" = 0 ] || {
    say "$url has streams: it is no rehearsal, and nothing was written"
    return 1
  }
  sql 'CREATE STREAM smoke (id BIGINT NOT NULL, kind TEXT NOT NULL, amount NUMERIC(10, 2) NOT NULL,
    UNIQUE (id) WITHIN INTERVAL '"'1 day'"')' >/dev/null
  local architecture
  for architecture in lambda kappa; do
    sql "CREATE MATERIALIZED VIEW smoke_$architecture WITH (architecture = '$architecture') AS
      SELECT kind, count(*) AS n, sum(amount) AS total FROM smoke GROUP BY kind" >/dev/null
  done
  local events='{"id":1,"kind":"a","amount":"1.50"}
{"id":2,"kind":"a","amount":"2.50"}
{"id":3,"kind":"b","amount":"4.00"}'
  for _ in 1 2; do # the second time they are duplicates
    get /v1/streams/smoke/events -H 'content-type: application/x-ndjson' --data-binary "$events" >/dev/null
  done
  sql 'REFRESH MATERIALIZED VIEW smoke_lambda' >/dev/null
  get /v1/streams/smoke/events -H 'content-type: application/x-ndjson' \
    --data-binary '{"id":4,"kind":"b","amount":"8.00"}' >/dev/null
  for architecture in lambda kappa; do
    sql "SELECT * FROM smoke_$architecture ORDER BY kind" | python "
rows = answer['rows']
if rows != [['a', 2, '4.00'], ['b', 2, '12.00']]:
    sys.exit('smoke: smoke_$architecture is wrong: %s' % rows)"
    sql "VERIFY MATERIALIZED VIEW smoke_$architecture" | python "
names = [c['name'] for c in answer['columns']]
row = dict(zip(names, answer['rows'][0]))
if row['differences'] != 0:
    sys.exit('smoke: VERIFY finds differences: %s' % row)"
  done
  say "$url took events once each, ran a batch run, and verified both views"
}

case $command in
lsn) get /v1/status | python 'print(answer["durable_lsn"])' ;;
check) check "${3:-0}" ;;
rehearse) rehearse ;;
*) usage ;;
esac

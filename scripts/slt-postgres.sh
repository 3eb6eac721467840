#!/bin/bash
# slt-postgres.sh [--override] [NAME..]: run the SQL logic tests on a PostgreSQL started for it, which
# is where their expected results come from; --override writes its answers into the files.
#
# Needs apt postgresql (any version from 14); exits 77 when there is none.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -1)
[ -n "$bin" ] || { echo "slt-postgres: no PostgreSQL server is installed: apt-get install postgresql" >&2; exit 77; }
dir=$(mktemp -d)
as() { if [ "$(id -u)" = 0 ]; then (cd "$dir" && runuser -u postgres -- "$@"); else "$@"; fi; }
if [ "$(id -u)" = 0 ]; then chown postgres "$dir"; fi
stop() {
  as "$bin/pg_ctl" -D "$dir/data" -m immediate stop >/dev/null 2>&1 || true
  rm -rf "$dir"
}
trap stop EXIT
as "$bin/initdb" -D "$dir/data" -U postgres --auth=trust -E UTF8 --locale=C.UTF-8 --no-sync >/dev/null
as "$bin/pg_ctl" -D "$dir/data" -w -l "$dir/log" \
  -o "-k '$dir' -c listen_addresses='' -c fsync=off -c timezone=UTC" start >/dev/null
chmod 755 "$dir"
${CARGO:-cargo} test -q -p kaplan-server --test corpus -- \
  slt --postgres "host=$dir user=postgres" "$@"

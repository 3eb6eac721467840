#!/bin/bash
# postgres.sh start DIR PORT | stop DIR | kill DIR: a private PostgreSQL as a source of changes, with
#   wal_level=logical, on 127.0.0.1:PORT, superuser 'postgres' (trust, no password). `kill` is
#   kill -9; a second start with the same DIR goes on with its data. PG_FSYNC=on makes it durable.
# needs: apt postgresql (14 or newer); root, or any user that is not root.
# exit: 0 done, 1 it did not start or stop, 2 usage, 77 no PostgreSQL server here.
set -euo pipefail
usage() { sed -n '2,5s/^# \{0,1\}//p' "$0" >&2; exit 2; }
[ $# -ge 2 ] || usage
command=$1 port=${3:-}
bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -1)
[ -n "$bin" ] && [ -x "$bin/initdb" ] || { echo 'postgres: no PostgreSQL server is installed: apt-get install postgresql' >&2; exit 77; }
mkdir -p "$2"
dir=$(cd "$2" && pwd)
as() { # the server refuses to run as root: Debian's package brings the user postgres
  if [ "$(id -u)" = 0 ]; then (cd "$dir" && runuser -u postgres -- "$@"); else (cd "$dir" && "$@"); fi
}

case $command in
stop)
  [ -f "$dir/data/postmaster.pid" ] || exit 0
  as "$bin/pg_ctl" -D "$dir/data" -m fast -w stop >/dev/null || exit 1
  exit 0 ;;
kill)
  [ -f "$dir/data/postmaster.pid" ] || exit 0
  main=$(head -1 "$dir/data/postmaster.pid")
  # Stopped first, so that it starts no further children while they are ended.
  kill -STOP "$main" 2>/dev/null || exit 0
  for child in $(cat /proc/"$main"/task/*/children); do kill -9 "$child" 2>/dev/null || true; done
  kill -9 "$main" 2>/dev/null || true
  while kill -0 "$main" 2>/dev/null; do sleep .05; done
  exit 0 ;;
start) [ -n "$port" ] || usage ;;
*) usage ;;
esac

[ "$(id -u)" != 0 ] || chown postgres "$dir"
as test -w . || { echo "postgres: the user postgres cannot reach $dir: take a folder that it can reach" >&2; exit 1; }
if [ ! -f "$dir/data/PG_VERSION" ]; then
  as "$bin/initdb" -D "$dir/data" -U postgres --auth=trust -E UTF8 --locale=C.UTF-8 --no-sync >/dev/null
fi
as tee "$dir/data/cdc.conf" >/dev/null <<C
listen_addresses = '127.0.0.1'
port = $port
unix_socket_directories = ''
wal_level = logical
max_replication_slots = 16
max_wal_senders = 16
wal_sender_timeout = 60s
fsync = ${PG_FSYNC:-off}
C
grep -qx "include 'cdc.conf'" "$dir/data/postgresql.conf" ||
  echo "include 'cdc.conf'" | as tee -a "$dir/data/postgresql.conf" >/dev/null
# After kill -9 its shared memory may be in use for a moment.
for try in 1 2 3 4 5; do
  as "$bin/pg_ctl" -D "$dir/data" -l "$dir/data/server.log" -w -t 60 start >/dev/null 2>&1 && break
  [ "$try" != 5 ] || { tail -20 "$dir/data/server.log" >&2; exit 1; }
  sleep 1
done

#!/bin/bash
# release_test.sh: does release.sh do the steps in order, and go back when one of them fails? gcloud and
# the smoke test are stand-ins that write down what they were asked and fail where they are told to.
# COMMANDS, when set, is a file that gets every gcloud command that was given.
# needs: python3. exit: 0 all cases hold, 1 one does not.
set -euo pipefail
deploy=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp "$deploy/release.sh" "$work/"
mkdir "$work/bin"
cat >"$work/bin/gcloud" <<'G'
#!/bin/bash
echo "gcloud $*" >>"$CALLS"
case "$*" in
*'deploy real --image=new'*) [ "${FAIL:-}" != deploy ] ;;
*'deploy real --image=old'*) [ "${FAIL2:-}" != back ] ;;
*'describe real --format=value(status.url)'*) echo https://real.example ;;
*'describe rehearsal --format=value(status.url)'*) echo https://rehearsal.example ;;
*'containers[0].image'*) echo old ;;
*'describe real --format=json'*)
  echo '{"status": {"traffic": [{"percent": 100}, {"tag": "candidate", "url": "https://candidate.example"}]}}' ;;
*update-traffic*) [ "${FAIL:-}" != shift ] || [ -f "$CALLS.shifted" ] || { touch "$CALLS.shifted"; exit 1; } ;;
*print-identity-token*) echo token ;;
esac
G
cat >"$work/smoke.sh" <<'S'
#!/bin/bash
echo "smoke $* ${TOKEN:+with a token}" >>"$CALLS"
[ "$1" != lsn ] || echo 42
case "$1 $2" in
'rehearse '*) [ "${FAIL:-}" != rehearse ] ;;
'check https://candidate.example') [ "${FAIL:-}" != smoke ] ;;
esac
S
chmod +x "$work/bin/gcloud" "$work/smoke.sh"
export PATH=$work/bin:$PATH REGION=r SERVICE=real BUCKET=b REHEARSAL=rehearsal ACCOUNT=builder@example.com

bad=0
# release NAME STATUS [VARIABLE=VALUE..]: runs it, and compares the exit status.
release() {
  local name=$1 wanted=$2 status=0
  shift 2
  export CALLS=$work/$name
  : >"$CALLS"
  env "$@" "$work/release.sh" new >"$CALLS.out" 2>&1 || status=$?
  [ $status = "$wanted" ] || { echo "$name: exit $status instead of $wanted"; cat "$CALLS.out"; bad=1; }
}
# in_order NAME PATTERN..: the calls contain the patterns, one after the other.
in_order() {
  local name=$1 line=0 found
  shift
  for pattern in "$@"; do
    found=$(tail -n +$((line + 1)) "$work/$name" | grep -n -m1 -- "$pattern" | cut -d: -f1) || true
    [ -n "$found" ] || { echo "$name: no '$pattern' after line $line of"; cat "$work/$name"; bad=1; return; }
    line=$((line + found))
  done
}
never() { ! grep -q -- "$2" "$work/$1" || { echo "$1: '$2' must not be called"; bad=1; }; }

release good 0 JOB=job REPLICA=reader
in_order good 'deploy rehearsal --image=new --args=start,--data,gs://b/rehearsals/' \
  'smoke rehearse https://rehearsal.example with a token' 'smoke lsn https://real.example' \
  'deploy real --image=new --no-traffic --tag=candidate' 'smoke check https://candidate.example 42 with' \
  'update-traffic real --to-latest --remove-tags=candidate' 'smoke check https://real.example 42' \
  'deploy reader --image=new' 'jobs update job --image=new'
never good 'image=old'

release no-rehearsal 0 REHEARSAL=
never no-rehearsal 'rehearse'

release rehearsal-fails 1 FAIL=rehearse
never rehearsal-fails 'deploy real'
never rehearsal-fails 'update-traffic'

for failure in deploy smoke shift; do
  release "$failure-fails" 1 FAIL=$failure JOB=job
  in_order "$failure-fails" 'deploy real --image=new' 'deploy real --image=old' 'update-traffic real --to-latest'
  never "$failure-fails" 'jobs update'
done
never smoke-fails 'smoke check https://real.example'

release both-fail 3 FAIL=smoke FAIL2=back
[ -z "${COMMANDS:-}" ] || cat "$work"/{good,smoke-fails} | grep "^gcloud" >"$COMMANDS"
exit $bad

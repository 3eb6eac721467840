#!/bin/bash
# check-evidence.sh TARGET=MINIMUM...: fail unless docs/evidence/TARGET.json records a run of at
# least MINIMUM cases, rounds or steps that found nothing lost, doubled or different.
# With TARGET?=MINIMUM a record need not be there, and must hold if it is.
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,4s/^# \{0,1\}//p' "$0" >&2; exit 2; }
cd "$(dirname "$0")/.."

failed=0 absent=0
wrong() {
  echo "evidence: $*" >&2
  failed=1
}

# number FILE KEY: the integer under KEY of a flat JSON object; empty when absent.
number() { grep -oE "\"$2\": *-?[0-9]+" "$1" | head -1 | grep -oE -- '-?[0-9]+$' || true; }

for pair in "$@"; do
  target=${pair%%=*} minimum=${pair#*=}
  optional=
  [[ $target != *\? ]] || { target=${target%\?} optional=yes; }
  file=docs/evidence/$target.json
  [ -f "$file" ] || [ -z "$optional" ] || { absent=$((absent + 1)); continue; }
  [ -f "$file" ] || { wrong "$file is missing: run \`make soak\`"; continue; }
  count=
  for key in cases rounds steps; do
    [ -n "$count" ] || count=$(number "$file" $key)
  done
  if [ -z "$count" ]; then
    wrong "$file has no cases, rounds or steps"
  elif [ "$count" -lt "$minimum" ]; then
    wrong "$file records $count, fewer than $minimum: run \`make soak\`"
  fi
  judged=
  for key in lost doubled differences violations failures; do
    value=$(number "$file" $key)
    [ -n "$value" ] || continue
    judged=yes
    [ "$value" = 0 ] || wrong "$file reports $key = $value"
  done
  [ -n "$judged" ] || wrong "$file reports none of lost, doubled, differences"
  [ -n "$(number "$file" seed)" ] || wrong "$file names no seed"
  grep -q '"commit": "[0-9a-f]\{40\}' "$file" || wrong "$file names no commit"
done

[ $failed = 0 ] && echo "evidence: $(($# - absent)) records hold"
exit $failed

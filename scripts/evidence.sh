#!/bin/bash
# evidence.sh TARGET SEED COMMAND...: run COMMAND and record its result in docs/evidence/TARGET.json.
#
# COMMAND's last line must be a flat JSON object with its counts. The record adds the commit (with
# `-dirty` when the tree had changes), the date, the seed, the seconds and the command. A command
# that fails leaves the older record as it was.
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2; }
cd "$(dirname "$0")/.."
target=$1 seed=$2
shift 2

commit=$(git rev-parse HEAD 2>/dev/null || echo unknown)
# The records themselves may differ: `make soak` writes several.
if [ -n "$(git status --porcelain -- . ':!docs/evidence' 2>/dev/null)" ]; then
  commit=$commit-dirty
fi

output=$(mktemp)
trap 'rm -f "$output"' EXIT
echo "$target: SEED=$seed; this takes a while"
started=$(date +%s)
"$@" | tee "$output"
seconds=$(($(date +%s) - started))

counts=$(tail -n 1 "$output")
[[ $counts == \{*\} ]] || {
  echo "evidence: the last line of $target is not a JSON object: $counts" >&2
  exit 1
}
fields=${counts#\{}
fields=${fields%\}}
# What the command says of itself comes last; target, seed and seconds are not repeated.
fields=$(sed -E 's/"target": *"[^"]*",? *//; s/"(seed|seconds)": *[0-9.]+,? *//g; s/, *$//' <<<"$fields")
command=${*//\\/\\\\}
command=${command//\"/\\\"}
mkdir -p docs/evidence
cat >"docs/evidence/$target.json" <<JSON
{
  "target": "$target",
  "commit": "$commit",
  "date": "$(date -u +%Y-%m-%dT%H:%M:%SZ)",
  "command": "$command",
  "seed": $seed,
  "seconds": $seconds,
  $fields
}
JSON
echo "$target: recorded in docs/evidence/$target.json after $seconds s"

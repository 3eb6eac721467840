#!/bin/bash
# manifests.sh SOURCE OUT: copy what decides about dependencies (manifests, lock file, the crate that
# stands for all of them) out of SOURCE, with empty sources for the other crates, so that cargo takes
# OUT for the workspace.
set -euo pipefail
[ $# = 2 ] || { sed -n '2,4s/^# \{0,1\}//p' "$0" >&2; exit 2; }
source=$1 out=$2
mkdir -p "$out"
cp "$source/Cargo.toml" "$source/Cargo.lock" "$out/"
while IFS= read -r manifest; do
  crate=${manifest#"$source"/}
  crate=${crate%/Cargo.toml}
  mkdir -p "$out/$crate/src"
  cp "$manifest" "$out/$crate/"
  : >"$out/$crate/src/lib.rs"
done < <(find "$source/crates" "$source/examples" -maxdepth 2 -name Cargo.toml | sort)
cp "$source"/crates/features/src/*.rs "$out/crates/features/src/"

#!/bin/bash
# check.sh DIR: terraform fmt, validate and test on DIR with no provider download: a stub serves the
#   schema of hashicorp/google 8.7.0 (the types in resources.txt).
# needs: terraform; PLUGIN_PYTHON, a Python with tf, grpcio and msgpack (../tools.sh makes one).
# exit: 0 all passed, 1 a check failed, 2 usage, 77 no terraform here.
# cannot see: enum values, regular expressions, conflicts between attributes, sensitive, anything
#   that only the real provider or the cloud knows. Other providers than hashicorp/google fail.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
[ $# = 1 ] && [ -d "$1" ] && [ -n "${PLUGIN_PYTHON:-}" ] || { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2; }
dir=$(cd "$1" && pwd)
command -v terraform >/dev/null || { echo 'terraform is not installed' >&2; exit 77; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/plugins"
printf '#!/bin/sh\nexec "%s" "%s/stub_provider.py"\n' "$PLUGIN_PYTHON" "$here" >"$work/plugins/terraform-provider-google"
chmod +x "$work/plugins/terraform-provider-google"
cat >"$work/tfrc" <<RC
provider_installation {
  dev_overrides { "hashicorp/google" = "$work/plugins" }
  direct {}
}
RC
export TF_CLI_CONFIG_FILE=$work/tfrc TF_DATA_DIR=$work/data TF_DISABLE_PLUGIN_TLS=1 TF_IN_AUTOMATION=1 \
  TF_INPUT=0 CHECKPOINT_DISABLE=1

failed=0
step() { # step COMMAND...: its output is shown only when it fails
  local out
  out=$(cd "$dir" && terraform "$@" -no-color 2>&1) && return
  printf 'terraform %s:\n%s\n' "$1" "$out"
  failed=1
}
ls "$dir"/*.tf >/dev/null 2>&1 || { echo "no *.tf in $1" >&2; exit 1; }
ls "$dir"/tests/*.tftest.hcl >/dev/null 2>&1 || { echo "no tests/*.tftest.hcl in $1" >&2; exit 1; }
step fmt -check -recursive -diff
step validate
step test
exit "$failed"

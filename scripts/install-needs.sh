#!/bin/sh
# Installs what the two commands of the README need and this machine lacks.
# install-needs.sh [test]    with `test` also what the test suite needs
set -eu
missing=
need() { command -v "$1" >/dev/null 2>&1 || missing="$missing $2"; }
need cc "gcc libc6-dev"
need busybox busybox-static
need curl curl
need python3 python3
if [ "${1:-}" = test ]; then
    need zstd zstd
    need strace strace
    need pip3 python3-pip
    need crun crun
    need openssl openssl
    # The receiver of the tests of log drivers; fluent-bit and fluentd are not in Debian.
    need rsyslogd rsyslog
    need docker-registry docker-registry
    need skopeo skopeo
    [ -x /usr/sbin/runc ] || need runc runc
    command -v docker >/dev/null 2>&1 || {
        # Debian: docker-cli where it exists (13 and newer), else docker.io
        if apt-cache show docker-cli >/dev/null 2>&1; then missing="$missing docker-cli"; else missing="$missing docker.io"; fi
    }
fi
if [ -n "$missing" ]; then
    echo "installing:$missing"
    command -v apt-get >/dev/null || { echo "no apt-get here: install these yourself:$missing" >&2; exit 1; }
    apt-get update -qq
    # shellcheck disable=SC2086
    # No run level in which packages start their services.
    RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
fi
if file -L "$(command -v busybox)" 2>/dev/null | grep -q 'dynamically linked'; then
    echo "busybox of this machine is not static: install busybox-static" >&2; exit 1
fi
command -v cargo >/dev/null 2>&1 || [ -x "$HOME/.cargo/bin/cargo" ] || {
    echo "no cargo on PATH: install Rust 1.95 or newer (https://rustup.rs)" >&2; exit 1; }

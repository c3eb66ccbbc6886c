#!/bin/sh
# Passes the tests: formatting, lints, unit tests, build, end-to-end with the leak check.
# Root is needed for the end-to-end part. GANTRY_FULL=1 runs the full sizes.
# With GANTRY_STAGES="unit e2e" only those stages run (fmt clippy tidy unit build quickstart e2e guest).
# The stage guest boots other kernels; it is skipped with a reason where there is no qemu.
set -eu
cd "$(dirname "$0")/.."
STAGES=${GANTRY_STAGES:-fmt clippy tidy unit build quickstart e2e guest}
PYTHON=${PYTHON:-python3}
failed=

stage() {
    name=$1; shift
    case " $STAGES " in *" $name "*) ;; *) return 0;; esac
    echo "== $name: $*"
    begin=$(date +%s)
    if "$@"; then result=ok; else result=FAILED; failed="$failed $name"; fi
    echo "== $name: $result in $(($(date +%s) - begin)) s"
}

unit() {
    if cargo nextest --version >/dev/null 2>&1; then
        cargo nextest run --workspace --no-fail-fast
    else
        # One at a time: some count what their process has, which nextest gives each test alone.
        cargo test --workspace --no-fail-fast -- --test-threads=1
    fi
}

tidy() {
    large=$(find crates tests perf benches fuzz scripts docs -name target -prune -o \
        \( -name '*.rs' -o -name '*.py' -o -name '*.sh' \) -size +1 -print | xargs wc -l | awk '$2 != "total" && $1 > 600')
    [ -z "$large" ] || { echo "files over 600 lines:"; echo "$large"; return 1; }
    ! git grep -nE '^(<{7}|>{7}) ' || { echo "marks of a merge conflict"; return 1; }
    if command -v cargo-deny >/dev/null; then cargo deny check; else echo "cargo-deny is not installed: licences unchecked"; fi
}

quickstart() {
    out=$(scripts/quickstart.sh --dev) || { echo "$out"; return 1; }
    echo "$out" | grep 'hello from a container of Gantry'
}

e2e() {
    [ "$(id -u)" = 0 ] || { echo "the end-to-end tests start containers: run as root"; return 1; }
    "$PYTHON" -c 'import pytest, docker' || { echo "needs: pip install pytest docker"; return 1; }
    GANTRYD=${GANTRYD:-$PWD/target/debug/gantryd} "$PYTHON" -m pytest -q -p no:cacheprovider -ra --durations=10 tests/e2e
}

guest() {
    GANTRYD=${GANTRYD:-$PWD/target/debug/gantryd} "$PYTHON" -m pytest -q -p no:cacheprovider -ra --durations=10 tests/guest
}

stage fmt cargo fmt --all --check
stage clippy cargo clippy --workspace --all-targets -- -D warnings
stage tidy tidy
stage unit unit
stage build cargo build -p gantryd -p gantry-keeper
stage quickstart quickstart
stage e2e e2e
stage guest guest
[ -z "$failed" ] || { echo "FAILED:$failed"; exit 1; }
echo "all tests passed"

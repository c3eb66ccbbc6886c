#!/bin/sh
# Installs what is needed, builds gantryd, starts it on a socket of its own, and runs a
# container whose output is seen; with a docker CLI on PATH through that, else by curl.
# quickstart.sh [--dev] [--keep]     --dev: unoptimised build; --keep: leave gantryd running
set -eu
cd "$(dirname "$0")/.."
profile=release; keep=
for arg; do
    case $arg in
        --dev) profile=debug;;
        --keep) keep=1;;
        *) echo "usage: quickstart.sh [--dev] [--keep]" >&2; exit 2;;
    esac
done
[ "$(id -u)" = 0 ] || { echo "containers need root: run this as root" >&2; exit 1; }
scripts/install-needs.sh
PATH=$PATH:$HOME/.cargo/bin
if [ "$profile" = release ]; then cargo build --release -p gantryd -p gantry-keeper
else cargo build -p gantryd -p gantry-keeper; fi

dir=$(mktemp -d /var/tmp/gantry-XXXXXX)
sock=$dir/gantry.sock
"target/$profile/gantryd" -H "unix://$sock" --data-root "$dir/data" --exec-root "$dir/exec" \
    --pidfile "$dir/gantryd.pid" >"$dir/gantryd.log" 2>&1 &
pid=$!
finish() {
    if [ -n "$keep" ] && kill -0 "$pid" 2>/dev/null; then
        echo "gantryd (pid $pid) goes on; try:  docker -H unix://$sock ps -a     end it:  kill $pid"
        return
    fi
    kill "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
    rm -rf "$dir"
}
trap finish EXIT
trap 'keep=; exit 1' INT TERM

api() { method=$1; path=$2; shift 2; curl -sS --fail-with-body --unix-socket "$sock" -X "$method" "$@" "http://gantry$path"; }
i=0
until curl -sf --unix-socket "$sock" http://gantry/_ping >/dev/null 2>&1; do
    kill -0 "$pid" 2>/dev/null || { cat "$dir/gantryd.log" >&2; exit 1; }
    i=$((i + 1)); [ $i -lt 300 ] || { echo "gantryd does not answer; its log:" >&2; cat "$dir/gantryd.log" >&2; exit 1; }
    sleep 0.1
done
echo "gantryd answers on unix://$sock"

python3 scripts/mkimage.py "$dir/busybox.tar"
api POST /images/load -H 'Content-Type: application/x-tar' --data-binary "@$dir/busybox.tar"

message='hello from a container of Gantry'
if command -v docker >/dev/null 2>&1; then
    echo "+ docker run --rm busybox echo $message"
    docker -H "unix://$sock" run --rm busybox echo "$message"
fi
echo "+ the same through the API with curl:"
id=$(api POST /v1.48/containers/create -H 'Content-Type: application/json' \
    -d "{\"Image\":\"busybox\",\"Tty\":true,\"Cmd\":[\"sh\",\"-c\",\"echo $message; id; uname -sr\"]}" |
    sed -n 's/.*"Id" *: *"\([0-9a-f]*\)".*/\1/p')
api POST "/v1.48/containers/$id/start"
api POST "/v1.48/containers/$id/wait"
api GET "/v1.48/containers/$id/logs?stdout=1&stderr=1"
api DELETE "/v1.48/containers/$id"

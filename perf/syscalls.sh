#!/bin/sh
# Counts from outside what a life of `true` costs in syscalls: strace on the engine's processes.
#   perf/syscalls.sh SOCKET LIVES PID...      (daemon and keepers; for dockerd also containerd)
# Prints per life: clones, mounts, fsyncs, and the most frequent calls; then the fds each process has.
set -eu
[ $# -ge 3 ] || { sed -n '2,4p' "$0"; exit 2; }
sock=$1; lives=$2; shift 2
cd "$(dirname "$0")/.."
cargo build --release -q -p gantry-perf
out=$(mktemp)
trap 'rm -f "$out"' EXIT
attach=; for pid; do attach="$attach -p $pid"; done
# shellcheck disable=SC2086
strace -qq -f -c -S calls -o "$out" $attach &
tracer=$!
i=0
until grep -q "^TracerPid:[[:space:]]*$tracer$" "/proc/$1/status" || [ $i -ge 100 ]; do sleep 0.1; i=$((i + 1)); done
target/release/gantry-perf --engine "e=$sock,pid=$1" --cases lifecycle --rounds 1 --lives "$lives" >/dev/null
kill -INT "$tracer"
wait "$tracer" || true
echo "per life, over $lives lives (traced times mean nothing, counts do):"
awk -v n="$lives" '
    $1 ~ /^[0-9.]+$/ && $NF != "total" { calls = $4; name = $NF; total += calls; all[name] = calls }
    END {
        printf "all syscalls %.1f\n", total / n
        split("clone clone3 vfork fork execve mount fsopen fsconfig fsmount open_tree move_mount mount_setattr umount2 " \
              "pivot_root unshare setns fsync fdatasync sync_file_range io_uring_enter mkdir mkdirat rmdir unlink unlinkat", want, " ")
        for (i = 1; i in want; i++) if (all[want[i]]) printf "%s %.2f\n", want[i], all[want[i]] / n
    }' "$out"
echo "most frequent:"; sed -n '3,14p' "$out"
for pid; do echo "fds of $pid ($(cat "/proc/$pid/comm")): $(find "/proc/$pid/fd" -mindepth 1 | wc -l)"; done

#!/bin/sh
# Sets the engines up and measures them side by side in one run.
#   perf/run.sh [options of gantry-perf]
# The real dockerd takes part when SIDROOT names a chroot with it and PEER_DOCKERD the script
# `dockerd.sh NAME` that starts it there and prints "up" (socket $SIDROOT/srv/bench/NAME.sock,
# engine cgroup densebench-NAME). The peer gets a network namespace of its own.
# Cases of images (`image-...`, also without --cases) need Debian's docker-registry and zstd; what the engines load and pull is
# made once in PERF_SOURCES (/dev/shm; 2 GiB), which is to be another file system than PERF_DIR.
# Output: Markdown with medians, ratios, raw samples, and the syscalls, clones, mounts and descriptors of a life,
# counted by strace; add it to perf/RESULTS.md.
set -eu
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "run as root" >&2; exit 1; }
cargo build --release -q -p gantryd -p gantry-keeper -p gantry-perf >&2
base=/sys/fs/cgroup/cpuacct; [ -d $base ] || base=/sys/fs/cgroup
dir=$(mktemp -d "${PERF_DIR:-/var/tmp}/gantry-perf-XXXXXX")
cg=$base/gantry-perf-$$
mkdir "$cg"
peer= ; netns= ; sources= ; registries=
finish() {
    kill "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
    if [ -n "$peer" ]; then
        bench=$SIDROOT/srv/bench
        kill "$(cat "$bench/$peer.dockerd.pid")" 2>/dev/null || true
        i=0
        while [ -S "$bench/$peer.sock" ] && [ $i -lt 100 ]; do sleep 0.1; i=$((i + 1)); done
        kill "$(cat "$bench/$peer.containerd.pid")" 2>/dev/null || true
    fi
    for one in $registries; do kill "$one" 2>/dev/null || true; wait "$one" 2>/dev/null || true; done
    [ -z "$sources" ] || rm -rf "$sources"
    [ -z "$netns" ] || ip netns del "$netns" || true
    i=0
    until rmdir "$cg" 2>/dev/null || [ $i -ge 50 ]; do sleep 0.1; i=$((i + 1)); done
    rm -rf "$dir"
}
# the engine's processes, and only they, are in its cgroup: containers are moved to their own
sh -c "echo \$\$ >$cg/cgroup.procs; exec target/release/gantryd -H unix://$dir/g.sock --data-root $dir/data \
    --exec-root $dir/exec --pidfile $dir/g.pid" >"$dir/gantryd.log" 2>&1 &
pid=$!
trap finish EXIT
trap 'exit 1' INT TERM
i=0
until curl -sf --unix-socket "$dir/g.sock" http://g/_ping >/dev/null 2>&1; do
    kill -0 $pid 2>/dev/null || { cat "$dir/gantryd.log" >&2; exit 1; }
    i=$((i + 1)); [ $i -lt 300 ] || { cat "$dir/gantryd.log" >&2; exit 1; }
    sleep 0.1
done
# Keepers leave the cgroup they are started in, so that a service manager does not end them with the daemon: here they
# are put back, or what they do would not be counted.
for keeper in $(pgrep -P $pid -x gantry-keeper); do echo "$keeper" >"$cg/cgroup.procs"; done
[ "$(wc -l <"$cg/cgroup.procs")" -gt 1 ] || { echo "no keeper was found beside gantryd" >&2; exit 1; }
# Does one of the cases need images, or something else than images?
cases=$(echo "$*" | sed -n 's/.*--cases \([^ ]*\).*/\1/p')
lives=1
[ -z "$cases" ] || echo "$cases" | tr , '\n' | grep -qv '^image-' || lives=
images=
case " $* " in
    *" --cases "*image-*) images=1 ;;
    *" --cases "*) ;;
    *) if command -v docker-registry >/dev/null; then images=1; else echo "no docker-registry: no cases of images" >&2; fi ;;
esac
# registry NAME [COMMAND...]: one that COMMAND starts; all have the same content.
registry() {
    mkdir -p "$sources/$1"
    cat >"$sources/$1/conf.yml" <<EOF
version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: $sources/registry}}
http: {addr: '127.0.0.1:$port'}
EOF
    conf=$sources/$1/conf.yml; shift
    "$@" docker-registry serve "$conf" >"$conf.log" 2>&1 &
    registries="$registries $!"
}
registry_option=
if [ -n "$images" ]; then
    sources=$(mktemp -d "${PERF_SOURCES:-/dev/shm}/gantry-images-XXXXXX")
    perf/images.py make "$sources"
    port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    registry gantry
    i=0
    until curl -sf "http://127.0.0.1:$port/v2/" >/dev/null || [ $i -ge 100 ]; do sleep 0.1; i=$((i + 1)); done
    perf/images.py upload "$sources" "127.0.0.1:$port"
    registry_option=",registry=127.0.0.1:$port"
    set -- --images "$sources" "$@"
fi
set -- --engine "gantry=$dir/g.sock,cgroup=$cg$registry_option" "$@"
if [ -n "${SIDROOT:-}" ]; then
    : "${PEER_DOCKERD:?SIDROOT is set: set PEER_DOCKERD to the script that starts dockerd there}"
    peer=perf$$; netns=gantry-perf-$$
    ip netns add "$netns"
    nsenter --net="/run/netns/$netns" ip link set lo up
    [ -z "$images" ] || registry dockerd nsenter --net="/run/netns/$netns"
    nsenter --net="/run/netns/$netns" "$PEER_DOCKERD" "$peer" >&2
    set -- "$@" --engine "dockerd=$SIDROOT/srv/bench/$peer.sock,cgroup=$base/densebench-$peer$registry_option"
fi
python3 scripts/mkimage.py "$dir/busybox.tar"
for sock in "$dir/g.sock" ${peer:+"$SIDROOT/srv/bench/$peer.sock"}; do
    curl -sS --fail-with-body --unix-socket "$sock" -X POST -H 'Content-Type: application/x-tar' \
        --data-binary "@$dir/busybox.tar" http://d/images/load >&2
done
if [ -n "$peer" ] && [ -n "$lives" ]; then
    # Launchers alone: the container that dockerd would start, by the OCI runtimes that are here.
    perf/bundle.py "$SIDROOT/srv/bench/$peer.sock" "$(cat "$SIDROOT/srv/bench/$peer.containerd.pid")" "$dir/busybox.tar" "$dir/bundle"
    for runtime in runc crun; do
        program=$(command -v $runtime) || continue
        set -- "$@" --runtime "$runtime $("$program" --version | sed -n '1s/.*version //p')=$program,$dir/bundle"
    done
fi
echo "### $(date -u +%F), commit $(git rev-parse --short HEAD)"
echo
echo "\`perf/run.sh $*\`" | sed "s#$dir#DIR#g; s#${sources:-$dir}#SOURCES#g"
echo
echo "$(nproc) cores, kernel $(uname -r), data root on $(stat -f -c %T "$dir") ($(findmnt -n -o SOURCE -T "$dir"))."
echo
# crun refuses hosts with control groups of both versions: the empty second one is not shown to it.
unshare -m --propagation private sh -c 'umount /sys/fs/cgroup/unified 2>/dev/null; exec target/release/gantry-perf "$@"' sh "$@"
[ -n "$lives" ] || exit 0
# What a life costs is counted after everything was timed: tracing slows an engine down.
count() {
    echo
    echo "Counted from outside, $1:"
    echo
    echo '```'
    # shellcheck disable=SC2046
    perf/syscalls.sh "$2" 10 $(cat "$3/cgroup.procs") || echo "not counted"
    echo '```'
}
count gantry "$dir/g.sock" "$cg"
[ -z "$peer" ] || count dockerd "$SIDROOT/srv/bench/$peer.sock" "$base/densebench-$peer"

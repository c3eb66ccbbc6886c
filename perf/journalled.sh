#!/bin/sh
# perf/run.sh with the data of all engines on one new ext4 with a journal, in a file.
#   perf/journalled.sh [options of gantry-perf]
# Without a journal ext4 does not use an inode again for minutes after its deletion and looks at all of them one by one: what
# is measured there is how much was deleted on the machine before, by whomever.
# Mounts are made in a namespace of their own and end with it. The file takes up to 16 GiB in PERF_DIR (/var/tmp).
set -eu
[ "$(id -u)" = 0 ] || { echo "run as root" >&2; exit 1; }
[ -n "${GANTRY_PERF_PRIVATE:-}" ] ||
    GANTRY_PERF_PRIVATE=1 exec unshare -m --propagation private "$0" "$@"
disk=$(mktemp -d "${PERF_DIR:-/var/tmp}/gantry-disk-XXXXXX")
finish() {
    i=0
    until umount "$disk/mnt" 2>/dev/null || [ $i -ge 100 ]; do sleep 0.1; i=$((i + 1)); done
    rm -f "$disk/image"
    rmdir "$disk/mnt" "$disk"
}
trap finish EXIT
trap 'exit 1' INT TERM
mkdir "$disk/mnt"
truncate -s 16G "$disk/image"
mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 "$disk/image"
mount -o loop "$disk/image" "$disk/mnt"
if [ -n "${SIDROOT:-}" ]; then
    # The peer is started in a copy, without what it stored before.
    mkdir "$disk/mnt/peer"
    (cd "$SIDROOT" && tar -c --one-file-system --exclude='./var/lib/bench-*' --exclude=./srv/bench .) |
        tar -x --numeric-owner -C "$disk/mnt/peer"
    SIDROOT=$disk/mnt/peer
    export SIDROOT
fi
sync
PERF_DIR=$disk/mnt "$(dirname "$0")/run.sh" "$@"

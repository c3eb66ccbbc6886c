#!/bin/sh
# Prints what a container's first process sees, in sections that begin with "@@ NAME".
# Arguments: names of further files to print. It is the shell of busybox; what it makes to see where it can, it removes.
# Programs are costly (hundreds of containers): one for many files, and the shell's own means where they do.
exec 2>&1
self=/proc/$$
s() { echo "@@ $1"; }
show() { if [ -e "$1" ] || [ -L "$1" ]; then cat "$1"; else echo "no $1"; fi; }
# What the shell says about an attempt, without its name and line.
said() { [ -z "$e" ] && e=yes; echo "$1 ${e##*: }"; }

s argv; tr '\0' '\n' <$self/cmdline
s arguments; for a in "$@"; do echo "$a"; done
s env; tr '\0' '\n' <$self/environ
s cwd; pwd
s umask; umask
s pid; [ $$ = 1 ] && echo 1 || echo "not 1"
s first; read -r comm </proc/1/comm; echo "$comm"; tr '\0' ' ' </proc/1/cmdline; echo
s status; cat $self/status
s stat; read -r stat <$self/stat; set_aside="$*"; set -- $stat; echo "$4 $5 $6 $7 $8"; set -- $set_aside
s limits; cat $self/limits
s oom_score_adj; cat $self/oom_score_adj
s fds; stat -c '%N' $self/fd/*
s tty; tty; [ -t 0 ] && stty size; [ -t 0 ] && stty -a
s id; id
s ns; stat -c '%N' $self/ns/*
s cgroup; cat $self/cgroup
s mountinfo; cat $self/mountinfo
s hostname; cat /proc/sys/kernel/hostname /proc/sys/kernel/domainname
s etc/hosts; show /etc/hosts
s etc/hostname; show /etc/hostname
s etc/resolv.conf; show /etc/resolv.conf
s etc/owners; stat -c '%A %u %g %n' /etc/hosts /etc/hostname /etc/resolv.conf
s dev; ls -lan /dev | awk '/^[bc]/ { print $1, $3, $4, $5 $6, $NF; next } /^l/ { print $1, $3, $4, $(NF-2), $(NF-1), $NF; next } !/^total/ { print $1, $3, $4, $NF }'
s dev/open
for d in null zero full random urandom tty console ptmx fuse net/tun kmsg mem loop0 loop7; do
    [ -e /dev/$d ] && { e=$( (true </dev/$d) 2>&1); said $d; }
done
s root; stat -c '%A %u %g %n' /* /.[!.]*
s masked
for p in /proc/acpi /proc/asound /proc/interrupts /proc/kcore /proc/keys /proc/latency_stats /proc/sched_debug \
         /proc/scsi /proc/timer_list /proc/timer_stats /sys/firmware /sys/devices/virtual/powercap \
         /proc/cpuinfo /proc/meminfo /proc/uptime; do
    if [ -d $p ]; then
        c=empty; for f in $p/*; do [ -e $f ] && c=full; done
    elif [ -e $p ]; then
        c=nothing; { read -r -n 1 f <$p; } 2>/dev/null && c=something
    else c=none; fi
    echo "$p $c"
done
s writable
made=
for p in / /etc /etc/hosts /etc/resolv.conf /etc/hostname /dev /dev/shm /dev/pts /dev/mqueue /proc /proc/bus /proc/fs /proc/irq /proc/sys \
         /proc/sys/kernel/hostname /proc/sys/vm/swappiness /proc/sysrq-trigger /proc/cpuinfo /proc/self/oom_score_adj \
         /proc/irq/default_smp_affinity /sys /sys/kernel /sys/kernel/mm/transparent_hugepage/enabled /sys/fs/cgroup \
         /sys/fs/cgroup/memory /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/pids/cgroup.procs \
         /sys/fs/cgroup/systemd /sys/fs/cgroup/unified /tmp /data /volume /mnt /mnt/* /mnt/tree/sub /mnt/*/sub; do
    [ -e $p ] || continue
    if [ -d $p ]; then f=${p%/}/.probe; else f=$p; fi
    e=$( (true >>$f) 2>&1)
    [ -d $p ] && [ -z "$e" ] && made="$made $f"
    said $p
done
# Another container of the machine may have the same one at this moment.
[ -z "$made" ] || rm -f $made
s pids; set_aside="$*"; set -- /proc/[0-9]*; [ $# -le 6 ] && echo few || echo many; set -- $set_aside
s sys/fs/cgroup; [ -d /sys/fs/cgroup ] && { cd /sys/fs/cgroup; stat -c '%A %u %g %N' *; cd - >/dev/null; }
s limits-of-group
if cd /sys/fs/cgroup 2>/dev/null; then
    grep -sH '' memory/memory.limit_in_bytes memory/memory.memsw.limit_in_bytes memory/memory.soft_limit_in_bytes \
        memory/memory.swappiness memory/memory.oom_control memory/memory.kmem.tcp.limit_in_bytes \
        memory/memory.use_hierarchy memory/memory.move_charge_at_immigrate \
        cpu/cpu.shares cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us cpu/cpu.rt_period_us cpu/cpu.rt_runtime_us cpu/cpu.idle \
        cpu/cpu.uclamp.min cpu/cpu.cfs_burst_us \
        cpuset/cpuset.cpus cpuset/cpuset.mems cpuset/cpuset.cpu_exclusive cpuset/cpuset.sched_load_balance \
        pids/pids.max blkio/blkio.weight blkio/blkio.bfq.weight blkio/blkio.bfq.weight_device \
        blkio/blkio.throttle.read_bps_device blkio/blkio.throttle.write_bps_device \
        blkio/blkio.throttle.read_iops_device blkio/blkio.throttle.write_iops_device \
        freezer/freezer.self_freezing devices/devices.list \
        cgroup.controllers memory.max memory.high memory.low memory.swap.max cpu.max cpu.weight cpuset.cpus pids.max io.max
    s procs-of-group
    grep -sxH $$ memory/cgroup.procs cpu/cgroup.procs cpuset/cgroup.procs pids/cgroup.procs devices/cgroup.procs \
        freezer/cgroup.procs blkio/cgroup.procs systemd/cgroup.procs unified/cgroup.procs | sed 's|/.*| in|'
    cd - >/dev/null
fi
s net; cd /sys/class/net 2>/dev/null && { echo *; cd - >/dev/null; }
s files
list=
for f in /data /volume /volume/seed /mnt /mnt/* /mnt/sub/* /opt/*; do [ -e "$f" ] && list="$list $f"; done
stat -c '%n %F %a %u:%g' $list
for f in $list; do [ -f "$f" ] && [ -s "$f" ] && [ -r "$f" ] && { echo "in $f"; sed 's/^/| /' "$f"; }; done
for f; do s "file $f"; show "$f"; done
s end

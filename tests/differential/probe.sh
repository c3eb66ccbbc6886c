#!/bin/sh
# Prints what a container's first process sees, in sections that begin with "@@ NAME".
# Arguments: names of further files to print. It is the shell of busybox, and reads only.
exec 2>&1
self=/proc/$$
s() { echo "@@ $1"; }
show() { if [ -e "$1" ] || [ -L "$1" ]; then cat "$1"; else echo "no $1"; fi; }

s argv; tr '\0' '\n' <$self/cmdline
s arguments; for a in "$@"; do echo "$a"; done
s env; tr '\0' '\n' <$self/environ
s cwd; pwd
s umask; umask
s pid; [ $$ = 1 ] && echo 1 || echo "not 1"
s first; cat /proc/1/comm; tr '\0' ' ' </proc/1/cmdline; echo
s status; cat $self/status
s stat; cut -d ' ' -f 4-8 $self/stat
s limits; cat $self/limits
s oom_score_adj; cat $self/oom_score_adj
s fds; for f in $self/fd/*; do echo "${f##*/} $(readlink "$f")"; done
s tty; tty; [ -t 0 ] && stty size; [ -t 0 ] && stty -a
s id; id
s ns; for n in cgroup ipc mnt net pid time user uts; do readlink $self/ns/$n; done
s cgroup; cat $self/cgroup
s mountinfo; cat $self/mountinfo
s hostname; hostname; cat /proc/sys/kernel/domainname
s etc/hosts; show /etc/hosts
s etc/hostname; show /etc/hostname
s etc/resolv.conf; show /etc/resolv.conf
s etc/owners; ls -ln /etc/hosts /etc/hostname /etc/resolv.conf | awk '{ print $1, $3, $4, $NF }'
s dev; ls -lan /dev | awk '/^[bc]/ { print $1, $3, $4, $5 $6, $NF; next } /^l/ { print $1, $3, $4, $(NF-2), $(NF-1), $NF; next } !/^total/ { print $1, $3, $4, $NF }'
s dev/open
for d in null zero full random urandom tty console ptmx fuse net/tun kmsg mem loop0 loop7; do
    [ -e /dev/$d ] && { e=$(dd if=/dev/$d of=/dev/null count=0 2>&1) && echo "$d ok" || echo "$d $e" | head -n 1; }
done
s root; ls -an / | awk '!/^total/ { print $1, $3, $4, $9, $10, $11 }'
s masked
for p in /proc/acpi /proc/asound /proc/interrupts /proc/kcore /proc/keys /proc/latency_stats /proc/sched_debug \
         /proc/scsi /proc/timer_list /proc/timer_stats /sys/firmware /sys/devices/virtual/powercap \
         /proc/cpuinfo /proc/meminfo /proc/uptime; do
    if [ -d $p ]; then echo "$p: $(ls $p | wc -l | sed 's/^0$/empty/; s/^[0-9]*$/full/')"
    elif [ -e $p ]; then echo "$p: $(head -c 1 $p | wc -c)"
    else echo "$p: none"; fi
done
s writable
for p in / /etc /etc/hosts /etc/resolv.conf /etc/hostname /dev /dev/shm /dev/pts /dev/mqueue /proc /proc/bus /proc/fs /proc/irq /proc/sys \
         /proc/sys/kernel/hostname /proc/sys/vm/swappiness /proc/sysrq-trigger /proc/cpuinfo /proc/self/oom_score_adj \
         /proc/irq/default_smp_affinity /sys /sys/kernel /sys/kernel/mm/transparent_hugepage/enabled /sys/fs/cgroup \
         /sys/fs/cgroup/memory /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/pids/cgroup.procs \
         /sys/fs/cgroup/systemd /sys/fs/cgroup/unified /tmp /data /volume /mnt /mnt/* /mnt/tree/sub /mnt/*/sub; do
    [ -e $p ] || continue
    if [ -d $p ]; then e=$(mkdir $p/.probe 2>&1 && rmdir $p/.probe 2>&1) && e=yes; else e=$( (: >>$p) 2>&1) && e=yes; fi
    echo "$p ${e##*: }"
done
s pids; ls /proc 2>/dev/null | grep -c '^[0-9]' | sed 's/^[1-6]$/few/; s/^[0-9].*$/many/'
s sys/fs/cgroup; ls -ln /sys/fs/cgroup | awk '!/^total/ { print $1, $3, $4, $9, $10, $11 }'
s limits-of-group
for f in memory/memory.limit_in_bytes memory/memory.memsw.limit_in_bytes memory/memory.soft_limit_in_bytes \
         memory/memory.swappiness memory/memory.oom_control memory/memory.kmem.tcp.limit_in_bytes \
         memory/memory.use_hierarchy memory/memory.move_charge_at_immigrate \
         cpu/cpu.shares cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us cpu/cpu.rt_period_us cpu/cpu.rt_runtime_us cpu/cpu.idle \
         cpu/cpu.uclamp.min cpu/cpu.cfs_burst_us \
         cpuset/cpuset.cpus cpuset/cpuset.mems cpuset/cpuset.cpu_exclusive cpuset/cpuset.sched_load_balance \
         pids/pids.max blkio/blkio.weight blkio/blkio.bfq.weight blkio/blkio.bfq.weight_device \
         blkio/blkio.throttle.read_bps_device blkio/blkio.throttle.write_bps_device \
         blkio/blkio.throttle.read_iops_device blkio/blkio.throttle.write_iops_device \
         freezer/freezer.self_freezing notify_on_release devices/devices.list \
         cgroup.controllers memory.max memory.high memory.low memory.swap.max cpu.max cpu.weight cpuset.cpus pids.max io.max; do
    [ -e /sys/fs/cgroup/$f ] && sed "s|^|$f |" /sys/fs/cgroup/$f 2>&1
done
s procs-of-group
for c in memory cpu cpuset pids devices freezer blkio systemd unified; do
    [ -e /sys/fs/cgroup/$c/cgroup.procs ] && { grep -qx $$ /sys/fs/cgroup/$c/cgroup.procs && echo "$c in" || echo "$c out"; }
done
s net; echo $(ls /sys/class/net)
s files
for f in /data /volume /volume/seed /mnt /mnt/* /mnt/sub/* /opt/*; do
    case $f in *'*') ;; *) [ -e "$f" ] && stat -c '%n %F %a %u:%g' "$f"; [ -f "$f" ] && [ -s "$f" ] && [ -r "$f" ] && sed 's/^/| /' "$f";; esac
done
for f; do s "file $f"; show "$f"; done
s end

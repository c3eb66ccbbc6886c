"""Control groups of version 2: what containers' groups have, and what is done with them."""
import json
import pathlib
import time

import pytest

from engine import wait_for

MIB = 1 << 20
RECORDED = json.loads((pathlib.Path(__file__).parent / "data/dockerd_v2.json").read_text())
ROOT = "/sys/fs/cgroup"


def create(engine, host=None, cmd=("sleep", "600"), **config):
    body = {"Image": "busybox", "Cmd": list(cmd), "HostConfig": {"NetworkMode": "none", **(host or {})}, **config}
    return engine.json("POST", "/v1.48/containers/create", body)


def started(engine, host=None, cmd=("sleep", "600"), **config):
    status, document = create(engine, host, cmd, **config)
    assert status == 201, document
    status, answer = engine.json("POST", f"/containers/{document['Id']}/start")
    assert status == 204, answer
    return document["Id"]


def inside(engine, id, script):
    return engine.ok("exec", id, "sh", "-c", script)


def group(guest, id, parent="/docker"):
    return f"{ROOT}{parent}/{id}"


def read(guest, id, file, parent="/docker"):
    return guest.read(f"{group(guest, id, parent)}/{file}").strip()


def files_of(guest, ids):
    """The files of interest of many groups in one go, by id."""
    names = " ".join(RECORDED["default"]["files"])
    text = guest.ok(f"cd {ROOT}; for id in {' '.join(ids)}; do dir=$(find . -type d -name $id); echo \"== $id $dir\"; "
                    f"for f in {names}; do [ -e $dir/$f ] && echo \"$f: $(tr '\\n' ';' <$dir/$f)\"; done; done; true")
    found = {}
    for line in text.splitlines():
        if line.startswith("== "):
            _, id, path = line.split()
            current = found[id] = {"path": path.removeprefix(".").replace(id, "ID"), "files": {}}
        else:
            name, _, value = line.partition(": ")
            current["files"][name] = [part for part in value.split(";") if part]
    return found


def test_groups_as_dockerd_makes_them(guest, engine):
    """Recorded from dockerd 28.5.2 with runc 1.3.6 on the newer kernel: warnings, paths, files, what inspect shows."""
    bfq = guest.script("guest-load bfq && echo bfq >/sys/block/vda/queue/scheduler")[0] == 0
    ids, wrong = {}, []
    for name, want in RECORDED.items():
        status, document = create(engine, want["host"])
        if status != want["create"]:
            wrong.append((name, "status", status, document))
            continue
        if status != 201:
            if document != want["warnings"]:
                wrong.append((name, "message", document, want["warnings"]))
            continue
        if document["Warnings"] != want["warnings"]:
            wrong.append((name, "warnings", document["Warnings"], want["warnings"]))
        assert engine.json("POST", f"/containers/{document['Id']}/start")[0] == 204, name
        ids[name] = document["Id"]
    found = files_of(guest, ids.values())
    for name, id in ids.items():
        want, got = RECORDED[name], found[id]
        shown = engine.inspect(id)["HostConfig"]
        expected = RECORDED["default"]["files"] | want["files"]
        for file, value in expected.items():
            if (bfq or "io." not in file) and got["files"].get(file) != value:
                wrong.append((name, file, got["files"].get(file), value))
        if got["path"] != want["path"]:
            wrong.append((name, "path", got["path"], want["path"]))
        for key, value in (RECORDED["default"]["shown"] | want["shown"]).items():
            if shown[key] != value:
                wrong.append((name, key, shown[key], value))
    assert not wrong, "\n".join(map(str, wrong))


def test_the_view_from_inside(guest, engine):
    """A namespace of its own, its group as the root, nothing to be written; the host's tree on request."""
    script = "cat /proc/self/cgroup; grep ' /sys/fs/cgroup ' /proc/self/mountinfo; ls /sys/fs/cgroup | grep -c ."
    id = started(engine)
    own, mount, count = inside(engine, id, script).splitlines()
    assert own == "0::/" and " / /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime - cgroup2 " in mount and int(count) > 20
    assert engine.cli("exec", id, "mkdir", "/sys/fs/cgroup/x").returncode == 1
    host = started(engine, {"CgroupnsMode": "host"})
    own, mount, _ = inside(engine, host, script).splitlines()
    assert own == f"0::/docker/{host}" and " / /sys/fs/cgroup ro," in mount
    privileged = started(engine, {"Privileged": True})
    inside(engine, privileged, "mkdir /sys/fs/cgroup/x && rmdir /sys/fs/cgroup/x")
    assert guest.ok(f"readlink /proc/{engine.inspect(id)['State']['Pid']}/ns/cgroup") != guest.ok("readlink /proc/1/ns/cgroup")


def test_born_in_the_group(guest, engine):
    """Every process of the container is in its group, execs too."""
    id = started(engine, cmd=("sh", "-c", "sleep 600 & sleep 600; true"))
    engine.ok("exec", "-d", id, "sleep", "600")

    def names():
        return sorted(guest.ok(f"for p in $(cat {group(guest, id)}/cgroup.procs); do cat /proc/$p/comm; done").split())
    wait_for(lambda: names() == ["sh", "sleep", "sleep", "sleep"], lambda: f"four processes: {names()}", 30, 0.2)
    top = engine.json("GET", f"/containers/{id}/top")[1]
    assert len(top["Processes"]) == 4


def test_out_of_memory(guest, engine):
    """The kernel's kill becomes OOMKilled and an event. Swap is limited too, or it would only be slow."""
    since = engine.json("GET", "/info")[1]["SystemTime"]
    id = started(engine, {"Memory": 16 * MIB, "MemorySwap": 16 * MIB},
                 ("sh", "-c", "head -c 100m /dev/zero | tail -c 90m >/dev/null; exit 3"), Tty=False)
    status, answer = engine.json("POST", f"/containers/{id}/wait")
    state = engine.inspect(id)["State"]
    assert state["OOMKilled"] is True, (state, answer)
    events = engine.ok("events", "--since", since, "--until", engine.json("GET", "/info")[1]["SystemTime"],
                       "--filter", f"container={id}", "--format", "{{.Action}}").split()
    assert "oom" in events and events.index("oom") < events.index("die")


def test_first_process_out_of_memory(guest, engine):
    id = started(engine, {"Memory": 16 * MIB, "MemorySwap": 16 * MIB}, ("tail", "-c", "90m", "/dev/zero"))
    assert engine.json("POST", f"/containers/{id}/wait")[1]["StatusCode"] == 137
    assert engine.inspect(id)["State"]["OOMKilled"] is True


def test_pids_limit_holds(guest, engine):
    id = started(engine, {"PidsLimit": 3})
    done = engine.cli("exec", id, "sh", "-c", "sleep 1 & sleep 1 & sleep 1 & wait")
    assert done.returncode != 0 and "can't fork" in done.stderr
    assert int(read(guest, id, "pids.events").split()[1]) > 0


def test_pause_is_the_groups_freezer(guest, engine):
    id = started(engine, cmd=("sh", "-c", "while :; do echo x >>/n; done"))
    engine.ok("pause", id)
    assert read(guest, id, "cgroup.freeze") == "1" and "frozen 1" in read(guest, id, "cgroup.events")
    assert engine.inspect(id)["State"]["Paused"] is True
    used = [l for l in read(guest, id, "cpu.stat").splitlines() if l.startswith("usage_usec")]
    time.sleep(0.3)
    assert used == [l for l in read(guest, id, "cpu.stat").splitlines() if l.startswith("usage_usec")]
    assert engine.cli("exec", id, "true").returncode != 0
    engine.ok("unpause", id)
    assert "frozen 0" in read(guest, id, "cgroup.events")
    engine.ok("pause", id)
    engine.ok("rm", "-f", id)  # a frozen group is killed too


def test_limits_are_updated_live(guest, engine):
    id = started(engine, {"Memory": 64 * MIB})
    assert read(guest, id, "memory.swap.max") == str(64 * MIB)
    engine.ok("update", "--memory", "32m", "--memory-swap", "48m", "--cpus", "0.5", "--cpu-shares", "2048",
              "--pids-limit", "50", "--cpuset-cpus", "0", "--memory-reservation", "16m", id)
    got = {f: read(guest, id, f) for f in ("memory.max", "memory.swap.max", "cpu.max", "cpu.weight", "pids.max",
                                           "cpuset.cpus", "memory.low")}
    assert got == {"memory.max": str(32 * MIB), "memory.swap.max": str(16 * MIB), "cpu.max": "50000 100000",
                   "cpu.weight": "174", "pids.max": "50", "cpuset.cpus": "0", "memory.low": str(16 * MIB)}
    refused = engine.cli("update", "--cpuset-cpus", "7", id)
    assert refused.returncode != 0 and read(guest, id, "cpuset.cpus") == "0"
    assert inside(engine, id, "cat /sys/fs/cgroup/memory.max") == str(32 * MIB)


def test_a_parent_of_its_own(guest, engine):
    """Controllers are handed down a new path, and what was made on the way stays, as under dockerd."""
    id = started(engine, {"CgroupParent": "/guest/one/two", "Memory": 64 * MIB, "CpuShares": 512})
    assert read(guest, id, "memory.max", "/guest/one/two") == str(64 * MIB)
    for level in ("", "/guest", "/guest/one", "/guest/one/two"):
        enabled = guest.read(f"{ROOT}{level}/cgroup.subtree_control").split()
        assert {"cpu", "memory", "pids", "io", "cpuset"} <= set(enabled), level
    engine.ok("rm", "-f", id)
    guest.ok(f"cd {ROOT}; rmdir guest/one/two guest/one guest")


def test_a_parent_with_processes_is_an_error(guest, engine):
    """A group with processes has no controllers for its children: a limit there is refused, not forgotten."""
    guest.ok(f"mkdir {ROOT}/busy; sleep 600 >/dev/null 2>&1 & echo $! >{ROOT}/busy/cgroup.procs")
    try:
        status, document = create(engine, {"CgroupParent": "/busy", "Memory": 64 * MIB})
        assert status == 201
        status, answer = engine.json("POST", f"/containers/{document['Id']}/start")
        assert status == 500 and "memory" in answer["message"], (status, answer)
        assert guest.ok(f"ls -d {ROOT}/busy/*/ 2>/dev/null || true") == ""
    finally:
        guest.ok(f"kill $(cat {ROOT}/busy/cgroup.procs); until rmdir {ROOT}/busy; do usleep 50000; done")


def test_devices(guest, engine):
    """The group's program decides: the default list, what is given, what rules add, everything."""
    opens = ("for n in 'b 254 0' 'c 1 1'; do set -- $n; mknod /n $1 $2 $3; dd if=/n of=/dev/null count=0 2>/dev/null && "
             "echo -n r || echo -n -; (: >>/n) 2>/dev/null && echo -n w || echo -n -; rm /n; done")
    for host, want in (({}, "----"), ({"DeviceCgroupRules": ["b 254:* rm"]}, "r---"),
                       ({"DeviceCgroupRules": ["b *:* rwm", "c 1:1 w"]}, "rw-w"), ({"Privileged": True}, "rwrw")):
        id = started(engine, host | {"CapAdd": ["SYS_RAWIO"]})
        assert inside(engine, id, opens) == want, host
    id = started(engine, {"Devices": [{"PathOnHost": "/dev/vda", "PathInContainer": "/dev/x", "CgroupPermissions": "r"}]})
    assert inside(engine, id, "dd if=/dev/x of=/dev/null bs=512 count=1 2>/dev/null && echo read") == "read"
    assert engine.cli("exec", id, "sh", "-c", ": >>/dev/x").returncode != 0


def test_io_is_throttled(guest, engine):
    id = started(engine, {"BlkioDeviceReadBps": [{"Path": "/dev/vdb", "Rate": MIB}],
                          "Devices": [{"PathOnHost": "/dev/vdb", "PathInContainer": "/dev/vdb", "CgroupPermissions": "r"}]})
    begin = time.monotonic()
    inside(engine, id, "dd if=/dev/vdb of=/dev/null bs=64k count=48 iflag=direct 2>/dev/null || "
                       "dd if=/dev/vdb of=/dev/null bs=64k count=48 skip=1000")
    assert time.monotonic() - begin > 1.5, "3 MiB at 1 MiB/s"


def test_root_of_the_guest_can_raise_limits(guest, engine):
    """What a machine without CAP_SYS_RESOURCE refuses."""
    id = started(engine, {"OomScoreAdj": -500, "Ulimits": [{"Name": "nofile", "Soft": 500_000, "Hard": 1_000_000},
                                                          {"Name": "memlock", "Soft": -1, "Hard": -1}]})
    out = inside(engine, id, "cat /proc/1/oom_score_adj; grep -e files -e 'locked memory' /proc/1/limits").splitlines()
    assert out[0] == "-500"
    assert [line.split()[-3:-1] for line in out[1:]] == [["500000", "1000000"], ["unlimited", "unlimited"]]


def test_a_killed_daemon_takes_its_groups_over(guest, engine):
    limited = started(engine, {"Memory": 64 * MIB})
    paused = started(engine)
    engine.ok("pause", paused)
    before = [engine.inspect(id)["State"]["Pid"] for id in (limited, paused)]
    guest.kill_daemon()
    guest.start_daemon()
    assert [engine.inspect(id)["State"]["Pid"] for id in (limited, paused)] == before
    assert engine.inspect(paused)["State"]["Status"] == "paused"
    engine.ok("update", "--memory", "32m", "--memory-swap", "32m", limited)
    assert read(guest, limited, "memory.max") == str(32 * MIB)
    engine.ok("unpause", paused)
    engine.ok("stop", "-t", "0", paused)
    guest.stop_daemon()
    guest.start_daemon()
    assert inside(engine, limited, "cat /sys/fs/cgroup/memory.max") == str(32 * MIB)


def test_groups_inside_a_container_go_with_it(guest, engine):
    id = started(engine, {"Privileged": True})
    inside(engine, id, "mkdir -p /sys/fs/cgroup/a/b; sleep 600 >/dev/null 2>&1 & echo $! >/sys/fs/cgroup/a/b/cgroup.procs")
    engine.ok("pause", id)
    engine.ok("unpause", id)
    engine.ok("rm", "-f", id)
    assert guest.script(f"[ -e {group(guest, id)} ]")[0] == 1

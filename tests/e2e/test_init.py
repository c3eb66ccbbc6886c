"""`--init`: a process 1 that is not the program."""


def test_process_one_is_the_init(engine):
    out = engine.ok("run", "--rm", "--init", "--network", "none", "busybox", "sh", "-c",
                    "tr '\\0' ' ' </proc/1/cmdline; echo; echo $$ $PPID; readlink /proc/1/exe")
    command, pids, exe = out.splitlines()
    assert command.startswith("/sbin/docker-init -- sh -c ")
    assert pids.split()[1] == "1"
    assert exe == "/sbin/docker-init"


def test_init_keeps_exit_codes_and_signals(engine):
    assert engine.cli("run", "--rm", "--init", "--network", "none", "busybox", "sh", "-c", "exit 7").returncode == 7
    assert engine.cli("run", "--rm", "--init", "--network", "none", "busybox", "nosuch").returncode == 127
    engine.ok("run", "-d", "--name", "in", "--init", "--network", "none", "busybox", "sleep", "600")
    assert engine.inspect("in")["HostConfig"]["Init"] is True
    assert engine.inspect("in")["Path"] == "sleep"
    engine.ok("stop", "-t", "60", "in")
    # Without the init, sleep as process 1 would have ignored it.
    assert engine.inspect("in")["State"]["ExitCode"] == 143


def test_init_with_a_terminal_and_another_user(engine):
    out = engine.ok("run", "--rm", "--init", "-t", "-u", "1234", "--network", "none", "busybox", "sh", "-c", "id -u; tty")
    assert out.split() == ["1234", "/dev/pts/0"]


def test_init_of_a_read_only_container(engine):
    done = engine.cli("run", "--rm", "--init", "--read-only", "--network", "none", "busybox", "echo", "hi")
    assert (done.returncode, done.stdout) == (0, "hi\n"), done.stderr

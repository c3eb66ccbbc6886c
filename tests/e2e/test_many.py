"""Many containers and clients at once."""
import concurrent.futures

from conftest import FULL

COUNT, CLIENTS = (200, 16) if FULL else (40, 8)


def test_parallel_runs_and_removes(engine):
    def life(i):
        name = f"many{i}"
        cid = engine.ok("run", "-d", "--name", name, "busybox", "sh", "-c", f"echo {i}; exec sleep 600")
        assert engine.inspect(name)["State"]["Running"]
        return cid
    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        ids = list(pool.map(life, range(COUNT)))
        assert len(set(ids)) == COUNT
        assert set(engine.ok("ps", "-q", "--no-trunc").split()) == set(ids)
        assert all(engine.ok("logs", cid) == str(i) for i, cid in enumerate(ids))
        assert list(pool.map(lambda c: engine.ok("rm", "-f", c), ids)) == ids
    assert engine.ok("ps", "-aq") == ""


def test_parallel_whole_lives(engine):
    def life(i):
        done = engine.cli("run", "--rm", "busybox", "sh", "-c", f"echo out{i}; exit {i % 7}")
        return done.returncode, done.stdout, done.stderr
    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        got = list(pool.map(life, range(COUNT)))
    assert got == [(i % 7, f"out{i}\n", "") for i in range(COUNT)]


def test_one_name_is_given_once(engine):
    """Many clients want the same name: one gets it, the others hear Docker's conflict."""
    def create(_):
        return engine.json("POST", "/containers/create?name=only", {"Image": "busybox", "Cmd": ["true"]})
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        got = [status for status, _ in pool.map(create, range(32))]
    assert sorted(got) == [201] + [409] * 31


def test_aborted_clients_leave_nothing(engine):
    """Clients that hang up in the middle of every kind of stream; the leak check judges."""
    engine.ok("run", "-d", "-i", "--name", "ab", "busybox", "sh", "-c", "while :; do echo x; sleep 0.01; done")
    requests = [
        b"GET /containers/ab/logs?stdout=1&follow=1 HTTP/1.1\r\nHost: d\r\n\r\n",
        b"GET /events HTTP/1.1\r\nHost: d\r\n\r\n",
        b"POST /containers/ab/wait HTTP/1.1\r\nHost: d\r\n\r\n",
        b"POST /containers/ab/attach?stream=1&stdout=1&stdin=1 HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\n"
        b"Upgrade: tcp\r\n\r\n",
        b"POST /containers/ab/attach?stream=1&stdout=1 HTTP/1.1\r\nHost: d\r\n\r\n",
        b"POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{",
        b"GET /_ping HTTP/1.1\r\nHo",
        b"",
    ]
    for i in range(40 if FULL else 10):
        for request in requests:
            with engine.connect() as sock:
                sock.sendall(request)
                if i % 2 and request.endswith(b"\r\n\r\n") and b"wait" not in request:
                    sock.recv(64)
    assert engine.inspect("ab")["State"]["Running"]

"""Limits of streams and logs: they have names, and who is one too many is told so."""
import json

import pytest
from engine import wait_for
from test_streams import attach, create, start

pytestmark = pytest.mark.gantry


def follow(engine, cid):
    """A client that follows the log, after the head of the answer."""
    sock = engine.connect()
    sock.sendall(f"GET /v1.48/containers/{cid}/logs?follow=1&stdout=1 HTTP/1.1\r\nHost: d\r\n\r\n".encode())
    return sock


def status_and_message(sock):
    head, _, body = sock.recv(4096).partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body) if body.startswith(b"{") else body


def test_limits_are_shown_by_name(engine):
    limits = engine.debug()["limits"]
    for name in ("client_backlog_bytes", "attached_clients_per_container", "log_clients_per_container",
                 "spill_bytes_per_container", "removed_log_bytes_per_container", "output_buffers_per_shard"):
        assert limits[name] > 0, name


def test_one_client_too_many_is_refused_and_harms_nobody(engine):
    limits = engine.debug()["limits"]
    cid = create(engine, "echo a; exec sleep 1000")
    start(engine, cid)
    readers = [follow(engine, cid) for _ in range(limits["log_clients_per_container"])]
    assert all(b"200 OK" in r.recv(15) for r in readers)
    late = follow(engine, cid)
    assert status_and_message(late) == (
        503, {"message": f"more than {limits['log_clients_per_container']} clients read the logs of this container"})
    readers[0].close()

    def reads_again():
        with follow(engine, cid) as sock:
            return b"200 OK" in sock.recv(15)
    wait_for(reads_again, "a place is free when one leaves", 10)
    clients = [attach(engine, cid, "stream=1&stdout=1")[0] for _ in range(limits["attached_clients_per_container"])]
    refused, _, body = engine.http("POST", f"/v1.48/containers/{cid}/attach?stream=1&stdout=1",
                                   headers={"Connection": "Upgrade", "Upgrade": "tcp"})
    text = f"more than {limits['attached_clients_per_container']} clients are attached to this container"
    assert refused == 503 and text in body.decode()
    for sock in [late, *readers, *clients]:
        sock.close()

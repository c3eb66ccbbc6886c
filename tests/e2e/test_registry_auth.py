"""Credentials: basic, tokens, identity tokens, and that they go nowhere else."""
import base64
import json
import urllib.parse

import pytest
import registries
from fakeregistry import IDENTITY, FakeRegistry
from registries import pull
from test_registry import clean  # noqa: F401


def header(document, encode=base64.urlsafe_b64encode):
    return {"X-Registry-Auth": encode(json.dumps(document).encode()).decode()}


USER = {"username": "user", "password": "secret"}
WRONG = {"username": "user", "password": "wrong"}


@pytest.fixture
def basic(base_layer):
    with FakeRegistry(auth="basic") as fake:
        fake.image("a/img", "v1", [base_layer, registries.noise_layer("x", 100)])
        yield fake


@pytest.fixture
def token(base_layer):
    with FakeRegistry(auth="token") as fake:
        fake.image("a/img", "v1", [base_layer, registries.noise_layer("x", 100)])
        yield fake


def login(eng, **document):
    return eng.json("POST", "/auth", document)


def test_basic(clean, basic):  # noqa: F811
    name = f"{basic.host}/a/img"
    status, body = pull(clean, name, "v1")
    assert status == 500 and body[0]["message"].endswith(f'{basic.url}/v2/a/img/manifests/v1": no basic auth credentials')
    status, body = pull(clean, name, "v1", headers=header(WRONG))
    assert status == 401 and body[0]["message"].startswith("unauthorized")
    for encode in (base64.urlsafe_b64encode, base64.b64encode, lambda b: base64.urlsafe_b64encode(b).rstrip(b"=")):
        status, stream = pull(clean, name, "v1", headers=header(USER, encode))
        assert status == 200 and "Status: " in stream[-1]["status"]
    pair = {"auth": base64.b64encode(b"user:secret").decode()}
    assert pull(clean, name, "v1", headers=header(pair))[0] == 200
    assert clean.json("GET", f"/distribution/{name}:v1/json", headers=header(USER))[0] == 200
    assert clean.json("GET", f"/distribution/{name}:v1/json", headers=header(WRONG))[0] == 401
    # What cannot be read is no credentials, as in Docker.
    assert pull(clean, name, "v1", headers={"X-Registry-Auth": "%%%"})[0] == 500


def test_tokens(clean, token):  # noqa: F811
    name = f"{token.host}/a/img"
    status, stream = pull(clean, name, "v1", headers=header(USER))
    assert status == 200 and "Downloaded newer" in stream[-1]["status"]
    assert token.token_requests == [
        {"account": ["user"], "scope": ["repository:a/img:pull"], "service": ["fake.service"]}]
    status, body = pull(clean, name, "v1", headers=header(WRONG))
    assert status == 401 and body[0]["message"].endswith("unauthorized: incorrect username or password")
    token.token_requests.clear()
    status, _ = pull(clean, name, "v1", headers=header({"identitytoken": IDENTITY}))
    assert status == 200
    assert token.token_requests[0]["grant_type"] == ["refresh_token"]
    assert token.token_requests[0]["scope"] == ["repository:a/img:pull"]
    token.token_requests.clear()
    assert pull(clean, name, "v1", headers=header({"registrytoken": token.token}))[0] == 200
    assert token.token_requests == []
    clean.http("POST", f"/images/{name}/push?tag=v1", headers=header(USER))
    assert token.token_requests[0]["scope"] == ["repository:a/img:pull,push"]


def test_a_token_that_is_refused_is_asked_for_again(clean, token):  # noqa: F811
    refused = []

    def once(handler):
        if refused:
            return False
        refused.append(1)
        return handler.error(401, "UNAUTHORIZED", "token expired", WWW_Authenticate=(
            f'Bearer realm="{token.url}/token",service="fake.service",error="invalid_token"'))
    token.on("^GET /v2/a/img/blobs/", once)
    status, stream = pull(clean, f"{token.host}/a/img", "v1", headers=header(USER))
    assert status == 200 and "Downloaded newer" in stream[-1]["status"], stream
    assert len(token.token_requests) == 2


def test_login(clean, basic, token):  # noqa: F811
    assert login(clean, **USER, serveraddress=basic.host) == (
        200, {"IdentityToken": "", "Status": "Login Succeeded"})
    assert login(clean, **WRONG, serveraddress=basic.host) == (
        500, {"message": f"login attempt to {basic.url}/v2/ failed with status: 401 Unauthorized"})
    assert login(clean, **USER, serveraddress=token.host) == (
        200, {"IdentityToken": IDENTITY, "Status": "Login Succeeded"})
    assert login(clean, **WRONG, serveraddress=token.host) == (
        401, {"message": f'Get "{token.url}/v2/": unauthorized: incorrect username or password'})
    closed = registries.free_port()
    assert login(clean, **USER, serveraddress=f"127.0.0.1:{closed}") == (500, {
        "message": f'Get "http://127.0.0.1:{closed}/v2/": dial tcp 127.0.0.1:{closed}: connect: connection refused'})
    assert clean.ok("login", "-u", "user", "-p", "secret", token.host).endswith("Login Succeeded")
    assert clean.ok("pull", "-q", f"{token.host}/a/img:v1") == f"{token.host}/a/img:v1"
    clean.ok("logout", token.host)
    (clean.config / "config.json").unlink(missing_ok=True)


def test_credentials_do_not_follow_a_redirect(clean, basic):  # noqa: F811
    with FakeRegistry() as store:
        store.blobs.update(basic.blobs)
        basic.on("^GET /v2/a/img/blobs/", lambda h: None if not h.allowed() else h.answer(
            307, Location=f"{store.url}{h.path}"))
        status, stream = pull(clean, f"{basic.host}/a/img", "v1", headers=header(USER))
        assert status == 200 and "Downloaded newer" in stream[-1]["status"], stream
        assert store.count("^GET .*/blobs/") > 0
        assert all("Authorization" not in headers for headers in store.headers)


def test_search(clean):  # noqa: F811
    rows = [{"name": "a/one", "description": "first", "star_count": 5, "is_official": True},
            {"name": "a/two", "description": None, "star_count": 1, "is_official": False}]
    with FakeRegistry() as fake:
        fake.on("^GET /v1/search", lambda h: h.answer(200, json.dumps({"num_results": 2, "results": rows}).encode()))
        status, found = clean.json("GET", f"/images/search?term={fake.host}/x%20y&limit=7")
        assert status == 200 and found == [
            {"star_count": 5, "is_official": True, "name": "a/one", "is_automated": False, "description": "first"},
            {"star_count": 1, "is_official": False, "name": "a/two", "is_automated": False, "description": ""}]
        assert fake.requests[-1] == "GET /v1/search?q=x%20y&n=7"
        for filters, want in [('{"stars":["2"]}', ["a/one"]), ('{"is-official":["false"]}', ["a/two"]),
                              ('{"is-automated":["true"]}', [])]:
            status, found = clean.json("GET", f"/images/search?term={fake.host}/x&filters={urllib.parse.quote(filters)}")
            assert [f["name"] for f in found] == want
    for query, text in [
            ("limit=200", "limit 200 is outside the range of [1, 100]"),
            ("limit=abc", 'invalid limit specified: strconv.Atoi: parsing "abc": invalid syntax'),
            ('filters={"foo":["a"]}', "invalid filter 'foo'"),
            ('filters={"stars":["a"]}', "invalid filter 'stars=a': strconv.Atoi: parsing \"a\": invalid syntax"),
            ('filters={"is-official":["maybe"]}', "invalid filter 'is-official=[maybe]'")]:
        status, body = clean.json("GET", f"/images/search?term=x&{urllib.parse.quote(query, safe='=')}")
        assert (status, body["message"]) == (400, text)
    port = registries.free_port()
    status, body = clean.json("GET", f"/images/search?term=127.0.0.1:{port}/x")
    assert status == 500 and body["message"].endswith("connect: connection refused")

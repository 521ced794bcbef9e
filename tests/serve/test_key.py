"""The API key: who is let in, and where it comes from."""

from __future__ import annotations

import hmac
from collections.abc import Callable

import pytest

from fastlane_st.serve.settings import ServerSettings, key_from_environment
from tests.serve.conftest import PATIENCE, Served, get

httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi")

from fastlane_st.serve import FastLaneClient, ServerError  # noqa: E402
from fastlane_st.serve.middleware import given_key  # noqa: E402

KEY = "correct-horse-battery-staple"
PATHS = ["/", "/index", "/metrics", "/openapi.json", "/nothing", "/page/x", "/health/", "//health"]


def test_without_the_key_nothing_but_health_answers(serve: Callable[..., Served]) -> None:
    served = serve(api_key=KEY)
    with httpx.Client(base_url=served.url, timeout=PATIENCE) as client:
        assert client.get("/health").json() == {"status": "ok"}
        for path in PATHS:
            assert client.get(path).status_code == 401
        for path in ("/search", "/encode", "/rerank", "/documents", "/documents/delete"):
            refused = client.post(path, content=b"{")
            assert refused.status_code == 401
            assert "the API key is missing or wrong" in refused.json()["error"]["message"]
            assert KEY not in refused.text
    assert len(served.index) == 6


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {KEY}"},
        {"authorization": f"bearer  {KEY}"},
        {"x-api-key": KEY},
        {"authorization": f"Basic {'YW55Ym9keTpjb3JyZWN0LWhvcnNlLWJhdHRlcnktc3RhcGxl'}"},
    ],
    ids=str,
)
def test_the_key_lets_in(serve: Callable[..., Served], headers: dict[str, str]) -> None:
    served = serve(api_key=KEY)
    assert get(f"{served.url}/index", headers=headers).json()["documents"] == 6


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {KEY}x"},
        {"authorization": f"Bearer {KEY[:-1]}"},
        {"authorization": "Bearer"},
        {"authorization": KEY},
        {"authorization": "Basic !!!"},
        {"authorization": "Basic YTpi"},
        {"x-api-key": ""},
        {"x-api-key": "ключ".encode()},
        {"cookie": f"key={KEY}"},
    ],
    ids=str,
)
def test_another_key_does_not(serve: Callable[..., Served], headers: dict[str, str]) -> None:
    served = serve(api_key=KEY)
    assert get(f"{served.url}/index", headers=headers).status_code == 401
    assert get(f"{served.url}/index?key={KEY}", headers=headers).status_code == 401


def test_keys_are_compared_in_constant_time(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[tuple[bytes, bytes]] = []
    compare = hmac.compare_digest

    def seen(given: bytes, key: bytes) -> bool:
        compared.append((given, key))
        return compare(given, key)

    monkeypatch.setattr(hmac, "compare_digest", seen)
    served = serve(api_key=KEY)
    get(f"{served.url}/index", headers={"x-api-key": "wrong"})
    assert compared == [(b"wrong", KEY.encode())]


def test_only_the_headers_that_carry_a_key_are_read() -> None:
    assert given_key(b"x-api-key", b"k") == b"k"
    assert given_key(b"authorization", b"Digest k") is None
    assert given_key(b"cookie", b"k") is None
    assert given_key(b"authorization", b"Basic dXNlcjprOjE=") == b"k:1"  # a key may hold a colon


def test_a_client_sends_its_key(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serve(api_key=KEY)
    monkeypatch.delenv("FASTLANE_API_KEY", raising=False)
    with FastLaneClient(served.url) as client:
        assert client.is_healthy()
        with pytest.raises(ServerError, match="key is missing or wrong") as caught:
            client.search("set")
        assert caught.value.status == 401
    with FastLaneClient(served.url, KEY) as client:
        assert client.search("set") == served.index.search("set")
    monkeypatch.setenv("FASTLANE_API_KEY", KEY)
    with FastLaneClient(served.url) as client:
        assert client.search("set") == served.index.search("set")


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTLANE_API_KEY", raising=False)
    assert key_from_environment() is None
    with pytest.raises(ValueError, match="environment variable OTHER_KEY isn't set"):
        key_from_environment("OTHER_KEY")
    monkeypatch.setenv("OTHER_KEY", KEY)
    assert key_from_environment("OTHER_KEY") == KEY
    monkeypatch.setenv("FASTLANE_API_KEY", KEY)
    assert key_from_environment() == KEY


@pytest.mark.parametrize(
    "key", ["", "short", "with a space in it all", "ключ" * 8, "new\nline" * 4]
)
def test_what_can_be_no_key_is_refused_without_showing_it(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTLANE_API_KEY", key)
    with pytest.raises(ValueError, match="FASTLANE_API_KEY must hold a key of 16") as caught:
        key_from_environment()
    assert not key or key not in str(caught.value)
    with pytest.raises(ValueError, match="api_key must hold a key"):
        ServerSettings(api_key=key)


def test_settings_do_not_show_the_key() -> None:
    assert KEY not in repr(ServerSettings(api_key=KEY))

"""Settings without sense, and a server that other machines are to use without a key: refused at the start."""

from pathlib import Path

import pytest

from inpaint.errors import RequestError
from server.settings import Settings, read_settings
from server.start import greeting, refuse_open
from server.uvicorn_server import spec_of

WITHOUT_SENSE = [
    ("public_url", "not a url"),
    ("public_url", "paint.example.org"),
    ("public_url", "ftp://paint.example.org"),
    ("public_url", "https://paint.example.org/?x=1"),
    ("trusted_proxies", "what"),
    ("trusted_proxies", "127.0.0.1,300.1.1.1"),
    ("cors_origins", '["app.example.org"]'),
    ("cors_origins", '["https://app.example.org/page"]'),
    ("drain_s", "-5"),
    ("drain_s", "inf"),
    ("body_timeout_s", "nan"),
    ("body_timeout_s", "0"),
    ("max_body_bytes", "-1"),
    ("pictures_ttl_s", "-1"),
    ("requests_ttl_s", "0"),
    ("fetch_timeout_s", "0"),
    ("fetch_max_bytes", "0"),
    ("fetch_ports", "[0]"),
    ("hang_s", "0"),
    ("lease_s", "inf"),
    ("deadline_s", "nan"),
    ("max_slowdown", "inf"),
    ("price", "inf"),
    ("idle_unload_s", "nan"),
]


@pytest.mark.parametrize(("name", "value"), WITHOUT_SENSE)
def test_a_setting_without_sense_is_refused_at_the_start(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A negative lifetime would delete every picture at the next sweep; others would fail every request."""
    monkeypatch.setenv(f"INPAINT_{name.upper()}", value)
    with pytest.raises(RequestError) as refused:
        read_settings({})
    assert refused.value.field == f"INPAINT_{name.upper()}"
    assert "must be " in refused.value.problem
    assert "\n" not in str(refused.value)


def test_settings_with_sense_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks are for mistakes, not for taste."""
    for name, value in {
        "PUBLIC_URL": "http://[fd00::5]:8000/inpaint/",
        "TRUSTED_PROXIES": "10.0.0.0/8, ::1,*",
        "CORS_ORIGINS": '["https://app.example.org", "http://localhost:3000", "*"]',
        "DRAIN_S": "0",
        "ALLOWED_HOSTS": '["paint.example.org"]',
    }.items():
        monkeypatch.setenv(f"INPAINT_{name}", value)
    assert read_settings({}).drain_s == 0


@pytest.mark.parametrize("url", ["https://paint.example.org", "http://10.0.0.5:8000", "http://gpu.local"])
def test_a_public_url_needs_a_key_or_no_auth(url: str) -> None:
    """Behind a proxy of this machine a server without a key would paint for the internet."""
    settings = Settings(public_url=url)
    with pytest.raises(RequestError, match=r"--public-url: .*inpaint keys create.*--no-auth"):
        refuse_open(settings, locked=False)
    refuse_open(settings, locked=True)
    refuse_open(Settings(public_url=url, no_auth=True), locked=False)
    refuse_open(Settings(public_url="http://localhost:9000/inpaint"), locked=False)


@pytest.mark.parametrize(
    ("settings", "locked", "says"),
    [
        ({}, False, "no key is needed, and only programs on this machine are answered"),
        ({}, True, "every request needs a key (inpaint keys list)"),
        ({"no_auth": True}, False, "NO KEY IS NEEDED by anyone who can reach it (--no-auth)"),
        (
            {"no_auth": True, "host": "0.0.0.0"},
            False,
            "NO KEY IS NEEDED by anyone who can reach it (--no-auth)",
        ),
    ],
)
def test_the_greeting_says_who_is_let_in(settings: dict[str, object], locked: bool, says: str) -> None:
    """An operator must not believe that only this machine is answered when a proxy's clients are."""
    assert says in greeting(Settings(data=Path(), **settings), 8000, locked=locked)


def test_the_engines_are_told_what_the_model_predicts() -> None:
    """An operator of an unmarked v-prediction model says it once, by flag or variable."""
    assert spec_of(read_settings({"predicts": "v"})).predicts == "v"
    assert spec_of(read_settings({})).predicts is None
    with pytest.raises(RequestError, match="--predicts: must be 'epsilon', 'v' or 'v-zsnr'"):
        read_settings({"predicts": "velocity"})

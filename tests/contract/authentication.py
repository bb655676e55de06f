"""What must be true of tokens on every framework? Inherited like the contract itself."""

from __future__ import annotations

import itertools
import json
import secrets
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from mlguard.auth.minting import make_key, mint, secret_signer, signer
from tests.contract.client import (
    AUDIENCE,
    ISSUER,
    SECRET,
    SETTINGS,
    Answer,
    Client,
    metric,
    token,
)

ROW = [1.0, 2.0]
PARTNER = "https://partner.example.com"
OLD_SECRET = "an old secret of the tests, long enough"
SECRETS = {"TWIN_SECRET": SECRET, "TWIN_OLD_SECRET": OLD_SECRET}
PEM, JWK = make_key("ES256")

_ADDRESSES = (f"10.{n // 65536}.{n // 256 % 256}.{n % 256}" for n in itertools.count(1))


def auth_settings(folder: Path) -> dict[str, Any]:
    """Two issuers that spell differently, scopes for a model, and a throttle."""
    jwks_file = folder / "keys.json"
    jwks_file.write_text(json.dumps({"keys": [JWK]}))
    own = {"name": "own", "issuer": ISSUER, "audience": AUDIENCE, "algorithms": ["HS256"],
           "secret_env": ["TWIN_OLD_SECRET", "TWIN_SECRET"], "tenant_claim": "org.id"}  # fmt: skip
    partner = {"name": "partner", "issuer": PARTNER, "audience": ["twin-client", "twin-job"],
               "audience_claim": "client_id", "typ": "none", "algorithms": ["ES256"],
               "jwks_file": str(jwks_file), "subject_claim": "username",
               "scope_claim": "access.roles"}  # fmt: skip
    models = [{**SETTINGS["models"][0], "scopes": ["predict:sum"]}, *SETTINGS["models"][1:]]
    return {
        "quotas": SETTINGS["quotas"],
        "service": {**SETTINGS["service"], "trusted_proxies": ["127.0.0.0/8"]},
        "models": models,
        "auth": {
            "issuers": [own, partner], "scopes": ["predict"], "failures_per_client": "6/minute",
            "max_age": 3600, "public": ["/health", "/health/admin", "/me/public"],
        },
    }  # fmt: skip


def own(subject: str = "alice", **claims: Any) -> str:
    """A token of the first issuer."""
    good = {"org": {"id": "acme"}, "scope": "predict predict:sum", "jti": f"jti of {subject}"}
    return token(subject, **(good | claims))


def partners(subject: str = "alice", header: Any = None, **claims: Any) -> str:
    """A token of the second issuer."""
    now = int(time.time())
    good = {"iss": PARTNER, "client_id": "twin-job", "username": subject, "iat": now,
            "exp": now + 600, "access": {"roles": ["predict", "predict:sum"]}}  # fmt: skip
    wanted = {n: v for n, v in {**good, **claims}.items() if v is not None}
    return mint(wanted, "ES256", signer(PEM, "ES256"), kid=JWK["kid"], **(header or {}))


def with_token(text: str, address: str = "10.99.0.1") -> list[tuple[str, str]]:
    return [("Authorization", f"Bearer {text}"), ("X-Forwarded-For", address)]


def ask(client: Client, path: str, text: str, address: str | None = None, **more: Any) -> Answer:
    """Ask with a token, from an address that nobody else uses."""
    headers = with_token(text, address or next(_ADDRESSES))
    headers += [("Content-Type", "application/json")] if "body" in more else []
    return client.ask(more.pop("method", "GET"), path, headers=headers, **more)


class AuthContract:
    """Black-box tests; a subclass provides the fixture `client`."""

    # -- issuers -------------------------------------------------------------------------------

    def test_two_issuers(self, client: Client) -> None:
        """Each issuer's tokens are read as its settings say, and its subjects are its own."""
        first, second = (ask(client, "/whoami", t).json for t in (own("bob"), partners("bob")))

        assert first == {"issuer": ISSUER, "subject": "bob", "tenant": "acme"}
        assert second == {"issuer": PARTNER, "subject": "bob", "tenant": None}

    def test_the_same_subject_is_two_principals(self, client: Client) -> None:
        """What one issuer's subject has spent, the other's has not."""
        for _ in range(3):
            ask(client, "/whoami", own("carol"))
        answer = ask(client, "/whoami", partners("carol"))

        assert '"requests-3600";r=29' in (answer.header("ratelimit") or "")

    @pytest.mark.parametrize(
        "text",
        [
            lambda: own(iss=PARTNER),
            lambda: partners(iss=ISSUER),
            lambda: partners(client_id="other"),
            lambda: partners(client_id=None, aud="twin-job"),
            lambda: partners(header={"typ": "JWT"}),
            lambda: partners(username=None, sub="alice"),
            lambda: own(org=None),
            lambda: own(org={"id": 7}),
            lambda: own(secret="a secret that nobody here has heard of"),
            lambda: own(iss="https://evil.example.com"),
            lambda: own(iat=None),
        ],
        ids=[
            "the other's name", "our name", "another client", "the usual audience claim",
            "a typ", "the usual subject claim", "no tenant", "a tenant that is no text",
            "another secret", "another issuer", "no age",
        ],
    )  # fmt: skip
    def test_issuers_are_not_mixed(self, client: Client, text: Any) -> None:
        """A token must be as its own issuer's settings demand."""
        answer = ask(client, "/whoami", text())

        assert (answer.status, answer.code) == (401, "token_untrusted")

    def test_old_secrets_hold(self, client: Client) -> None:
        """A secret that is being replaced verifies until it leaves the list."""
        assert ask(client, "/whoami", own(secret=OLD_SECRET)).status == 200

    def test_old_age(self, client: Client) -> None:
        """A token issued longer ago than max_age has expired, whatever it says."""
        old = own(iat=int(time.time()) - 3700)

        assert ask(client, "/whoami", old).code == "token_expired"

    # -- scopes --------------------------------------------------------------------------------

    def test_scopes_of_a_model(self, client: Client) -> None:
        """A model's scope is demanded on its route, before anything is charged."""
        refused = ask(client, "/predict", own("erin", scope="predict"), method="POST", body=b"{}")

        assert (refused.status, refused.code) == (403, "scope_missing")
        challenge = 'Bearer error="insufficient_scope", scope="predict predict:sum"'
        assert refused.header("www-authenticate") == challenge
        left = ask(client, "/whoami", own("erin")).header("ratelimit") or ""
        assert '"requests-3600";r=29' in left

    @pytest.mark.parametrize("path", ["/admin", "/admin/sync", "/admin/odd", "/health/admin"])
    def test_scopes_of_a_route(self, client: Client, path: str) -> None:
        """guard.requires holds under other decorators, and on a route that is public."""
        lacking = ask(client, path, own("frank"))
        granted = ask(client, path, own("frank", scope="predict admin"))

        assert (lacking.status, lacking.code) == (403, "scope_missing")
        assert "admin" in (lacking.header("www-authenticate") or "")
        assert (granted.status, granted.json) == (200, {"admin": True})
        assert client.ask("GET", path).code == "token_missing"

    def test_scopes_of_a_model_in_a_handler(self, client: Client) -> None:
        """guard.inference demands the model's scopes too."""
        body = json.dumps({"instances": [ROW]}).encode()
        lacking = ask(client, "/own/sum", own("g", scope="predict"), method="POST", body=body)
        granted = ask(client, "/own/sum", own("g"), method="POST", body=body)

        assert (lacking.status, lacking.code) == (403, "scope_missing")
        assert granted.status == 200

    # -- throttle ------------------------------------------------------------------------------

    def test_failures_are_rationed(self, client: Client) -> None:
        """After six refused tokens an address waits, but for tokens that are known to be good."""
        address = next(_ADDRESSES)
        known, unknown = own("heidi"), own("heidi", jti="another")
        assert ask(client, "/whoami", known, address).status == 200
        refused = [ask(client, "/whoami", own(exp=n), address).status for n in range(1, 9)]
        throttled = ask(client, "/whoami", unknown, address)

        assert refused == [401] * 6 + [429] * 2
        assert (throttled.status, throttled.code) == (429, "too_many_failures")
        assert 0 < int(throttled.header("retry-after") or 0) <= 120
        assert ask(client, "/whoami", known, address).status == 200
        assert ask(client, "/whoami", unknown).status == 200
        assert client.ask("GET", "/whoami").code == "token_missing"
        assert metric(client, "mlguard_auth_total", outcome="too_many_failures") >= 3

    def test_an_address_is_not_chosen_by_its_owner(self, client: Client) -> None:
        """Proxies are walked right to left, and an IPv6 address counts as its /64."""
        for n in range(6):
            forwarded = f"192.0.2.{n}, 2001:db8:7:7:{n}::1"
            assert ask(client, "/whoami", own(exp=1), forwarded).status == 401

        assert ask(client, "/whoami", own(exp=1), "203.0.113.9, 2001:db8:7:7::2").status == 429
        assert ask(client, "/whoami", own(exp=1), "2001:db8:7:8::2").status == 401

    # -- revocation ----------------------------------------------------------------------------

    def test_a_revoked_token(self, client: Client) -> None:
        """A token that was good a moment ago is refused, and the others of its subject are not."""
        jti = secrets.token_hex(8)  # what is revoked is remembered on this host
        text, other = own("ivan", jti=jti), own("ivan", jti="two")
        assert ask(client, "/whoami", text).status == 200
        assert ask(client, f"/revoke?jti={jti}", other).status == 200
        answer = ask(client, "/whoami", text)

        assert (answer.status, answer.code) == (401, "token_revoked")
        assert 'error="invalid_token"' in (answer.header("www-authenticate") or "")
        assert ask(client, "/whoami", other).status == 200

    def test_a_revoked_subject(self, client: Client) -> None:
        """A subject's tokens up to now are refused, those of another issuer's are not."""
        judy = secrets.token_hex(8)
        assert ask(client, "/whoami", own(judy)).status == 200
        assert ask(client, f"/revoke?subject={judy}", own("operator")).status == 200

        assert ask(client, "/whoami", own(judy)).code == "token_revoked"
        assert ask(client, "/whoami", own(judy, iat=int(time.time()) + 5)).status == 200
        assert ask(client, "/whoami", partners(judy)).status == 200

    # -- beside the routes ---------------------------------------------------------------------

    def test_mounted_apps(self, client: Client) -> None:
        """An app that is mounted beside is reached with a token only, charged and counted."""
        labels = {
            "http_request_method": "GET", "http_route": "/mounted",
            "http_response_status_code": "200",
        }  # fmt: skip
        name = "http_server_request_duration_seconds_count"
        before = metric(client, name, **labels)
        refused = client.ask("GET", "/mounted/x")
        answer = ask(client, "/mounted/x", own("kate"))

        assert refused.code == "token_missing"
        assert answer.json == {"runs": 1, "caller": "kate"}, "the refused one ran"
        assert '"requests-3600";r=29' in (answer.header("ratelimit") or "")
        assert metric(client, name, **labels) - before == 1
        client.ask("GET", "/mounted/reset", headers=with_token(own("kate")))

    def test_work_after_the_answer(self, client: Client) -> None:
        """What a handler leaves to be done later knows its caller, and its model is counted."""
        labels = {"model": "own", "version": "later"}
        before = metric(client, "mlguard_inference_rows_total", **labels)
        assert ask(client, "/later", own("leo")).status == 200

        assert ask(client, "/later/done", own("leo")).json == {"callers": ["leo"]}
        assert metric(client, "mlguard_inference_rows_total", **labels) - before == 2

    def test_head(self, client: Client) -> None:
        """HEAD takes a token and is charged like GET, and has no body."""
        refused = client.ask("HEAD", "/head")
        answer = ask(client, "/head", own("nina"), method="HEAD")

        assert (refused.status, refused.body) == (401, b"")
        assert (answer.status, answer.body) == (200, b"")
        assert '"requests-3600";r=29' in (answer.header("ratelimit") or "")

    def test_preflights(self, client: Client) -> None:
        """A browser's question whether it may ask is answered without a token and costs nothing."""
        headers = [
            ("Origin", "https://app.example.com"),
            ("Access-Control-Request-Method", "POST"),
            ("Access-Control-Request-Headers", "authorization"),
        ]
        answer = client.ask("OPTIONS", "/predict", headers=headers)

        assert answer.status == 200
        assert answer.header("access-control-allow-origin") in ("*", "https://app.example.com")
        assert answer.header("ratelimit") is None

    options_status = 200  # FastAPI answers 405 where CORS does not

    def test_options(self, client: Client) -> None:
        """What no code of the app answers needs no token and costs nothing, preflight or not."""
        answer = client.ask("OPTIONS", "/whoami")

        assert answer.status == self.options_status
        assert "GET" in (answer.header("allow") or "")
        assert answer.header("ratelimit") is None

    def test_preflights_reach_no_handler(self, client: Client) -> None:
        """A handler that serves OPTIONS itself is code of the app: it takes a token."""
        assert client.ask("OPTIONS", "/options").code == "token_missing"
        assert ask(client, "/options", own("mia"), method="OPTIONS").json == {"options": True}

    def test_refusals_can_be_read_by_browsers(self, client: Client) -> None:
        """A refusal carries the app's CORS headers."""
        answer = client.ask("GET", "/whoami", headers=[("Origin", "https://app.example.com")])

        assert answer.status == 401
        assert answer.header("access-control-allow-origin") in ("*", "https://app.example.com")

    # -- anything at all -----------------------------------------------------------------------

    # Other services of this process may draw random numbers meanwhile, in threads of their own.
    @pytest.mark.filterwarnings("ignore:Do not use the .random. module inside strategies")
    def test_any_header(self, client: Client) -> None:
        """Whatever stands in the Authorization header, the answer is one of four."""

        @examples(max_examples=150, deadline=None)
        @given(_HEADERS, st.sampled_from(["10.1.2.3", "10.1.2.4", "junk", ""]))
        def answered(value: str, address: str) -> None:
            headers = [("Authorization", value), ("X-Forwarded-For", address)]
            answer = client.ask("GET", "/whoami", headers=headers)

            assert answer.status in (200, 401, 403, 429)
            assert answer.status == 200 or answer.code

        answered()


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
_CLAIMS = ("iss", "aud", "sub", "exp", "nbf", "iat", "jti", "scope", "scp", "org")
_HEADER = ("alg", "typ", "kid", "crit", "b64", "jku", "zip")


def _odd(claims: dict[str, Any], header: dict[str, Any]) -> str:
    """Sign well what makes no sense."""
    now = int(time.time())
    good = {"iss": ISSUER, "aud": AUDIENCE, "sub": "fuzz", "iat": now, "exp": now + 60,
            "scope": "predict", "org": {"id": "acme"}, "typ": "JWT"}  # fmt: skip
    sign = secret_signer(SECRET.encode(), "HS256")
    return mint(good | claims, header.pop("alg", "HS256"), sign, **header)


def _damaged(position: int, character: str) -> str:
    text = own()
    position %= len(text)
    return text[:position] + character + text[position + 1 :]


_LINE = st.text(st.characters(max_codepoint=255, exclude_categories=["Cc"]), max_size=60)
_HEADERS = st.one_of(
    _LINE.map(str.strip),
    st.builds("Bearer {}".format, _LINE),
    st.builds("Bearer {}.{}.{}".format, _LINE, _LINE, _LINE),
    st.builds(
        lambda claims, header: f"Bearer {_odd(claims, dict(header))}",
        st.dictionaries(st.sampled_from(_CLAIMS), _JSON),
        st.dictionaries(st.sampled_from(_HEADER), _JSON, max_size=3),
    ),
    st.builds(
        lambda position, character: f"Bearer {_damaged(position, character)}",
        st.integers(0, 2000),
        st.characters(min_codepoint=33, max_codepoint=255, exclude_categories=["Cc", "Zs"]),
    ),
    st.integers(7000, 8100).map(lambda size: "Bearer " + "a" * size),
)

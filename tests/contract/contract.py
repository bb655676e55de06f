"""What must be true on every framework? Inherited by one short class per framework and server."""

from __future__ import annotations

import gzip
import hashlib
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.contract.client import (
    Answer,
    Client,
    OverSockets,
    bearer,
    metric,
    post,
    samples,
    token,
)
from tests.servers import LONG, wait_until

ROW = [1.0, 2.0]
JSON = ("Content-Type", "application/json")

_MALFORMED = [
    ("Bearer", "token_malformed"),
    ("Basic YWxpY2U6c2VjcmV0", "token_missing"),
    ("Bearer  ", "token_malformed"),
    ("Bearer not-a-token", "token_malformed"),
    ("Bearer a.b.c", "token_malformed"),
    ("Bearer \xff\xfe.\xff.\xff", "token_malformed"),
    ("Bearer " + "a" * 8000, "token_malformed"),
    ("Bearer eyJhbGciOiJub25lIn0.e30.", "token_malformed"),
    ("Bearer eyJhbGciOiJub25lIn0.e30.AA", "token_untrusted"),
]

_BODIES = {
    "empty": b"",
    "not JSON": b"{",
    "not UTF-8": b"\xff\xfe{",
    "a number": b"3",
    "null": b"null",
    "a list": b"[[1, 2]]",
    "no such key": b'{"rows": [[1, 2]]}',
    "rows are no list": b'{"instances": 7}',
    "no rows": b'{"instances": []}',
    "ragged rows": b'{"instances": [[1, 2], [1], []]}',
    "strings": b'{"instances": [["a", "b"]]}',
    "nested too deep": b'{"instances": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    "a huge integer": b'{"instances": [[1' + b"0" * 400 + b", 2]]}",
}


class Contract:
    """Black-box tests; a subclass provides the fixtures `client`, `bare` and `sent_whole`."""

    # -- who is calling ------------------------------------------------------------------------

    def test_public_routes_need_no_token(self, client: Client) -> None:
        """A public route answers as without the kit."""
        answer = client.ask("GET", "/health")

        assert (answer.status, answer.json) == (200, {"ok": True})

    def test_a_missing_token_is_challenged(self, client: Client) -> None:
        """RFC 6750 section 3.1: no credentials, no error code in the challenge."""
        answer = client.ask("GET", "/me")

        assert (answer.status, answer.code) == (401, "token_missing")
        assert answer.header("www-authenticate") == "Bearer"

    def test_refusals_have_one_face(self, client: Client) -> None:
        """A refusal is the same bytes on every framework, but for the trace it names."""
        answer = client.ask("GET", "/me", headers=bearer(scope="other"))

        assert re.sub(rb"[0-9a-f]{32}", b"TRACE", answer.body) == (
            b'{"type":"urn:mlguard:problem:scope_missing",'
            b'"title":"The bearer token does not grant what this route needs.",'
            b'"status":403,"code":"scope_missing","trace_id":"TRACE"}'
        )
        challenge = 'Bearer error="insufficient_scope", scope="predict"'
        assert answer.header("www-authenticate") == challenge
        assert answer.header("content-type") == "application/problem+json"
        assert answer.header("content-length") == str(len(answer.body))

    def test_whoever_is_known_is_told_the_limits(self, client: Client) -> None:
        """A refusal that no quota is about still says which ones hold, to a caller who is known."""
        known = client.ask("GET", "/me", headers=bearer(scope="other"))
        unknown = client.ask("GET", "/me")

        assert known.header("ratelimit-policy") == '"requests-3600";q=30;w=3600'
        assert known.header("ratelimit") is None
        assert unknown.header("ratelimit-policy") is None

    @pytest.mark.parametrize(("header", "code"), _MALFORMED)
    def test_junk_credentials(self, client: Client, header: str, code: str) -> None:
        """Whatever stands in the header, the answer is a 401 that says which kind."""
        answer = client.ask("GET", "/me", headers=[("Authorization", header)])

        assert (answer.status, answer.code) == (401, code)

    @pytest.mark.parametrize(
        ("claims", "code"),
        [
            ({"exp": 1}, "token_expired"),
            ({"exp": None}, "token_untrusted"),
            ({"exp": "tomorrow"}, "token_untrusted"),
            ({"nbf": 9999999999}, "token_not_yet_valid"),
            ({"iat": 9999999999}, "token_not_yet_valid"),
            ({"iss": "https://evil.example.com/"}, "token_untrusted"),
            ({"iss": None}, "token_untrusted"),
            ({"aud": "another-api"}, "token_untrusted"),
            ({"aud": None}, "token_untrusted"),
            ({"sub": None}, "token_untrusted"),
            ({"secret": "the wrong secret, of the same length!!"}, "token_untrusted"),
        ],
        ids=str,
    )
    def test_tokens_that_do_not_hold(
        self, client: Client, claims: dict[str, Any], code: str
    ) -> None:
        """A token must be signed by us, for us, by the issuer, and now."""
        answer = client.ask("GET", "/me", headers=bearer(**claims))

        assert (answer.status, answer.code) == (401, code)

    def test_two_tokens_are_none(self, client: Client) -> None:
        """Two Authorization headers are ambiguous, even where both are good."""
        answer = client.ask("GET", "/me", headers=[*bearer(), *bearer("bob")])

        assert (answer.status, answer.code) == (401, "token_malformed")

    def test_header_names_in_odd_case(self, client: Client) -> None:
        """Names of headers and of the scheme have no case."""
        answer = client.ask("GET", "/me", headers=[("aUTHORIZATION", f"bEARER {token('odd')}")])

        assert (answer.status, answer.json) == (200, {"subject": "odd"})

    def test_the_caller_is_known_to_the_handler(self, client: Client) -> None:
        """guard.caller() is the principal, and None on a public route."""
        assert client.ask("GET", "/me", headers=bearer("carol")).json == {"subject": "carol"}
        assert client.ask("GET", "/me/public", headers=bearer("carol")).json == {"nobody": True}

    @pytest.mark.parametrize("method", ["GET", "POST", "BREW"])
    def test_unknown_paths_are_denied_first(self, client: Client, method: str) -> None:
        """What matched no route is denied without a token, and the framework's 404 with one."""
        if method == "BREW" and self.server_knows_methods:
            pytest.skip("this server's parser refuses methods that are not registered")

        assert client.ask(method, "/nowhere").code == "token_missing"
        assert client.ask(method, "/nowhere", headers=bearer("lost")).status == 404

    def test_unknown_methods(self, client: Client) -> None:
        """A method that the route lacks is denied without a token, and a 405 with one."""
        assert client.ask("DELETE", "/predict").code == "token_missing"
        assert client.ask("DELETE", "/predict", headers=bearer("lost")).status == 405

    # -- how much they may ask -----------------------------------------------------------------

    def test_rows_are_what_is_counted(self, client: Client) -> None:
        """A batch costs its rows; a refused batch costs nothing."""
        first = post(client, "/predict", [ROW] * 60, "rows")
        second = post(client, "/predict", [ROW] * 60, "rows")
        third = post(client, "/predict", [ROW] * 40, "rows")

        assert (first.status, second.status, third.status) == (200, 429, 200)
        assert second.code == "quota_exceeded"
        assert 0 < int(second.header("retry-after") or 0) <= 7200

    def test_the_answer_says_what_is_left(self, client: Client) -> None:
        """Every answer carries RateLimit and RateLimit-Policy (IETF draft)."""
        answer = post(client, "/predict", [ROW] * 3, "headers")

        policy = '"requests-3600";q=30;w=3600, "rows-3600";q=100;w=3600'
        assert answer.header("ratelimit-policy") == policy
        assert re.fullmatch(
            r'"requests-3600";r=29;t=\d+, "rows-3600";r=97;t=\d+', answer.header("ratelimit") or ""
        )

    def test_requests_are_counted(self, client: Client) -> None:
        """The request after the last one is refused, and one principal's quota is no other's."""
        statuses = [client.ask("GET", "/me", headers=bearer("busy")).status for _ in range(30)]
        refused = client.ask("GET", "/me", headers=bearer("busy"))

        assert statuses == [200] * 30
        assert (refused.status, refused.code) == (429, "rate_exceeded")
        assert client.ask("GET", "/me", headers=bearer("idle")).status == 200

    def test_a_batch_that_never_fits(self, client: Client) -> None:
        """A batch larger than the window is not told to retry, but how large one may be."""
        answer = post(client, "/predict", [ROW] * 101, "large")

        assert (answer.status, answer.code) == (422, "batch_exceeds_quota")
        assert answer.json["largest_batch"] == 100
        assert answer.header("retry-after") is None

    def test_a_million_rows(self, client: Client) -> None:
        """A body full of rows is refused by its rows or its size, quickly."""
        body = b'{"instances": [' + b"[]," * 10**6 + b"[]]}"
        answer = client.ask("POST", "/predict", headers=[*bearer("million"), JSON], body=body)

        assert answer.status in (413, 422)

    def test_what_the_model_was_not_asked_is_refunded(self, client: Client) -> None:
        """Rows that failed the handler's validation cost nothing."""
        invalid = post(client, "/predict", [["a", "b"]] * 100, "refund")
        valid = post(client, "/predict", [ROW] * 100, "refund")

        assert invalid.status in (400, 422)
        assert invalid.code is None
        assert valid.status == 200

    def test_what_failed_is_refunded(self, client: Client) -> None:
        """Rows behind a 5xx cost nothing."""
        failed = [post(client, "/broken", [ROW] * 100, "failed").status for _ in range(2)]

        assert failed == [503, 503]

    def test_answered_rows_count_when_they_are_more(self, client: Client) -> None:
        """A debit is settled at the larger of rows asked and rows answered."""
        first = post(client, "/twice", [ROW] * 40, "twice")
        second = post(client, "/twice", [ROW] * 40, "twice")

        assert (first.status, second.status) == (200, 429)

    def test_quotas_hold_under_concurrency(self, client: Client) -> None:
        """Concurrent batches of one principal are admitted up to the quota and no further."""
        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(post, client, "/predict", [ROW] * 7, "crowd") for _ in range(20)]
        statuses = [a.result().status for a in asked]

        assert statuses.count(200) == 14
        assert statuses.count(429) == 6

    @pytest.mark.parametrize("path", ["/own", "/own/sync"])
    def test_a_handler_may_guard_its_model_itself(self, client: Client, path: str) -> None:
        """guard.inference spends the quota; its refusal becomes the answer."""
        subject = f"handler{path}"
        first = post(client, path, [ROW] * 60, subject)
        second = post(client, path, [ROW] * 60, subject)

        assert (first.status, first.json) == (200, {"predictions": [3.0] * 60})
        assert (second.status, second.code) == (429, "quota_exceeded")

    # -- bodies --------------------------------------------------------------------------------

    @pytest.mark.parametrize("body", _BODIES.values(), ids=_BODIES.keys())
    def test_the_handler_judges_its_bodies(self, client: Client, bare: Client, body: bytes) -> None:
        """A body that is the handler's business is answered as without the kit."""
        subject = hashlib.sha256(body).hexdigest()
        answer = client.ask("POST", "/predict", headers=[*bearer(subject), JSON], body=body)

        expected = bare.ask("POST", "/predict", headers=[JSON], body=body)
        assert (answer.status, answer.body) == (expected.status, expected.body)

    def test_compressed_bodies(self, client: Client, bare: Client) -> None:
        """A body that the kit cannot read is the handler's business too."""
        body = gzip.compress(b'{"instances": [[1, 2]]}')
        headers = [*bearer("gzip"), JSON, ("Content-Encoding", "gzip")]
        answer = client.ask("POST", "/predict", headers=headers, body=body)

        expected = bare.ask("POST", "/predict", headers=headers, body=body)
        assert (answer.status, answer.body) == (expected.status, expected.body)

    @pytest.mark.parametrize("size", [0, 1, 70_000, 1 << 20])
    def test_the_handler_gets_every_byte(self, client: Client, size: int) -> None:
        """The body was read for its rows, and the handler still reads it whole."""
        body = b"x" * size
        answer = client.ask("POST", "/echo", headers=bearer(f"echo{size}"), body=body)

        assert answer.json == {"bytes": size, "sha256": hashlib.sha256(body).hexdigest()}

    def test_chunked_bodies(self, client: Client) -> None:
        """A body without an announced length is read like any other."""
        headers = [*bearer("chunked"), JSON]
        parts = [b'{"instances"', b": [[1, 2]", b", [3, 4]]}"]
        answer = client.ask("POST", "/predict", headers=headers, body=parts)

        assert (answer.status, answer.json) == (200, {"predictions": [3.0, 7.0]})
        assert '"rows-3600";r=98' in (answer.header("ratelimit") or "")

    @pytest.mark.parametrize("chunked", [False, True], ids=["announced", "chunked"])
    def test_bodies_beyond_the_limit(self, client: Client, *, chunked: bool) -> None:
        """A body larger than max_body is refused, announced or not."""
        part = b"x" * 65_536
        body: Any = [part] * 17 if chunked else part * 17
        answer = client.ask("POST", "/echo", headers=bearer("large body"), body=body)

        assert (answer.status, answer.code) == (413, "body_too_large")
        assert answer.json["limit"] == 1 << 20

    def test_bodies_cut_off_half_way(self, client: Client) -> None:
        """A client that leaves within its body costs nothing and leaves nothing behind."""
        if not isinstance(client, OverSockets):
            pytest.skip("only a socket can be closed half way")
        headers = f"Authorization: Bearer {token('cut off')}\r\nContent-Length: 1000\r\n"
        for _ in range(5):
            with socket.create_connection(client.address, timeout=LONG) as sent:
                sent.sendall(f"POST /predict HTTP/1.1\r\nHost: x\r\n{headers}\r\n[[".encode())
        wait_until(lambda: metric(client, "http_server_active_requests") == 0, "all have ended")

        assert post(client, "/predict", [ROW] * 100, "cut off").status == 200

    def test_nan_is_a_number(self, client: Client) -> None:
        """NaN, which Python's JSON accepts, is counted as a row and never a 500 of ours."""
        body = b'{"instances": [[NaN, 1], [Infinity, 2]]}'
        answer = client.ask("POST", "/echo", headers=[*bearer("nan"), JSON], body=body)

        assert answer.status == 200
        assert '"rows-3600";r=98' in (answer.header("ratelimit") or "")

    # -- what an operator sees -----------------------------------------------------------------

    def test_inferences_are_counted_exactly(self, client: Client) -> None:
        """Rows and runs are in the metrics as soon as the answer is."""
        labels = {"model": "sum", "version": "3"}
        before = metric(client, "mlguard_inference_rows_total", **labels)
        runs = metric(client, "mlguard_inference_duration_seconds_count", **labels)
        for _ in range(3):
            post(client, "/predict", [ROW] * 5, "counted")

        assert metric(client, "mlguard_inference_rows_total", **labels) - before == 15
        assert metric(client, "mlguard_inference_duration_seconds_count", **labels) - runs == 3

    def test_a_handler_names_the_version(self, client: Client) -> None:
        """call.version is the label of what a handler ran."""
        labels = {"model": "own", "version": "4-canary"}
        before = metric(client, "mlguard_inference_rows_total", **labels)
        post(client, "/own", [ROW] * 2, "canary")

        assert metric(client, "mlguard_inference_rows_total", **labels) - before == 2

    def test_failures_are_counted(self, client: Client) -> None:
        """A 5xx of a model route is an error of its model."""
        labels = {"model": "broken", "version": "1", "error_type": "503"}
        before = metric(client, "mlguard_inference_errors_total", **labels)
        post(client, "/broken", [ROW], "erring")

        assert metric(client, "mlguard_inference_errors_total", **labels) - before == 1

    def test_decisions_are_counted(self, client: Client) -> None:
        """Authentications and refusals are counted by what they were."""
        names = [
            ("mlguard_auth_total", {"outcome": "token_missing"}),
            ("mlguard_auth_total", {"outcome": "ok"}),
            ("mlguard_quota_refused_total", {"model": "sum", "code": "batch_exceeds_quota"}),
        ]
        before = [metric(client, name, **labels) for name, labels in names]
        client.ask("GET", "/me")
        post(client, "/predict", [ROW] * 101, "decisions")
        after = [metric(client, name, **labels) for name, labels in names]

        assert [b - a for a, b in zip(before, after, strict=True)] == [1, 1, 1]

    def test_no_label_comes_from_a_client(self, client: Client) -> None:
        """Paths, methods and parameters that clients invent make no series."""
        for n in range(3):
            client.ask("GET", f"/invented/{n}?a={n}", headers=bearer("inventor"))
            client.ask(f"BREW{n}", "/me", headers=bearer("inventor"))
            client.ask("GET", f"/v1/items/{n}", headers=bearer("inventor"))
        found = {
            (dict(labels)["http_request_method"], dict(labels)["http_route"])
            for name, labels in samples(client)
            if name == "http_server_request_duration_seconds_count"
        }

        assert not {m for m, _ in found} - {"GET", "POST", "DELETE", "_OTHER"}
        assert not [r for _, r in found if "invented" in r or re.search(r"\d", r.replace("v1", ""))]
        assert ("GET", self.item_route) in found
        assert ("GET", "") in found

    item_route = "/v1/items/{item}"
    server_knows_methods = False

    def test_exemplars_lead_to_the_trace(self, client: Client) -> None:
        """A latency bucket carries the trace id of a request in it, where OpenMetrics is asked."""
        trace_id = "0af7651916cd43dd8448eb211c80319c"
        parent = ("traceparent", f"00-{trace_id}-b7ad6b7169203331-01")
        post(client, "/predict", [ROW], "exemplar", more=[parent])
        found = [
            sample.exemplar.labels["trace_id"]
            for (name, labels), sample in samples(client).items()
            if name == "mlguard_inference_duration_seconds_bucket"
            and ("model", "sum") in labels
            and sample.exemplar
        ]

        assert trace_id in found

    def test_the_callers_trace_is_continued(self, client: Client) -> None:
        """A refusal names the trace that the caller began."""
        trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
        parent = ("traceparent", f"00-{trace_id}-00f067aa0ba902b7-00")
        answer = client.ask("GET", "/me", headers=[parent])

        assert answer.json["trace_id"] == trace_id

    @pytest.mark.parametrize(
        "value", ["", "junk", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "\xff" * 55], ids=repr
    )
    def test_junk_traceparents(self, client: Client, value: str) -> None:
        """A traceparent that makes no sense begins a new trace and breaks nothing."""
        answer = client.ask("GET", "/me", headers=[("traceparent", value)])

        assert re.fullmatch("[0-9a-f]{32}", answer.json["trace_id"])

    def test_the_scrape_is_prometheus(self, client: Client) -> None:
        """Without OpenMetrics asked for, the classic text; whatever Accept says, no error."""
        plain = client.ask("GET", "/metrics")
        odd = client.ask("GET", "/metrics", headers=[("Accept", "\xff;q=,*/*;;")])

        assert (plain.header("content-type") or "").startswith("text/plain; version=")
        assert b"# TYPE http_server_request_duration_seconds histogram" in plain.body
        assert odd.status == 200
        assert client.ask("HEAD", "/metrics").body == b""

    # -- the handler's answers -----------------------------------------------------------------

    def test_streams_pass(self, client: Client) -> None:
        """A streamed answer arrives whole, and is counted with its status."""
        labels = {
            "http_request_method": "GET", "http_route": "/stream",
            "http_response_status_code": "200",
        }  # fmt: skip
        before = metric(client, "http_server_request_duration_seconds_count", **labels)
        answer = client.ask("GET", "/stream", headers=bearer("stream"))

        assert answer.body == b"one two three"
        after = metric(client, "http_server_request_duration_seconds_count", **labels)
        assert after - before == 1

    def test_a_failing_handler_stays_a_500(self, client: Client) -> None:
        """An exception of the app is the app's 500, with nothing of it in our metrics."""
        answer = client.ask("GET", "/boom", headers=bearer("boom"))

        assert (answer.status, answer.code) == (500, None)
        assert b"secret feature value" not in client.ask("GET", "/metrics").body

    def test_nothing_stays_in_flight(self, client: Client) -> None:
        """After every answer, good or bad, the gauge of active requests is back at zero."""
        client.ask("GET", "/boom", headers=bearer("flight"))
        client.ask("GET", "/stream", headers=bearer("flight"))
        client.ask("GET", "/nowhere")

        assert metric(client, "http_server_active_requests") == 0

    def test_head_is_answered_without_a_body(self, client: Client) -> None:
        """A refused HEAD has the refusal's headers and no body."""
        answer: Answer = client.ask("HEAD", "/me")

        assert (answer.status, answer.body) == (401, b"")
        assert answer.header("www-authenticate") == "Bearer"

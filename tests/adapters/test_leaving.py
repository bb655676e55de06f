"""What does a client pay that leaves while a model runs?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from fastapi.testclient import TestClient
from flask import Flask, Response

from mlguard.testing import GuardTester
from mlguard_fastapi import MLGuard as FastAPIGuard
from mlguard_flask import MLGuard as FlaskGuard

SETTINGS: dict[str, Any] = {
    "models": [{"name": "own"}],
    "quotas": {"rows": ["100/hour"]},
}


def test_a_stream_that_is_broken_off() -> None:
    """Whoever closes a stream has had the rows that it was to give."""
    app = Flask(__name__)
    guard = FlaskGuard(app, SETTINGS)
    GuardTester(guard)

    @app.get("/stream")
    def stream() -> Response:
        def chunks() -> Iterator[bytes]:
            with guard.inference("own", 60):
                yield b"first"
                yield b"second"

        return Response(chunks())

    client = app.test_client()
    broken = client.get("/stream", buffered=False)
    next(iter(broken.response))
    broken.close()

    refused = client.get("/stream")
    assert (refused.status_code, refused.get_json()["code"]) == (429, "quota_exceeded")


def test_a_socket_that_is_closed() -> None:
    """Whoever closes a WebSocket while the model runs has had the rows."""
    app = FastAPI()
    guard = FastAPIGuard(app, SETTINGS)
    rehearsal = GuardTester(guard)

    @app.websocket("/ws")
    async def rows(socket: WebSocket) -> None:
        await socket.accept()
        with suppress(WebSocketDisconnect):
            async with guard.inference("own", 60):
                await socket.send_json([1] * 60)
                await socket.receive_text()

    with TestClient(app) as client:
        with client.websocket_connect("/ws") as socket:
            socket.receive_json()
        with client.websocket_connect("/ws") as socket:
            assert socket.receive()["reason"] == "quota_exceeded"

    assert rehearsal.metric("mlguard_quota_refused_total", model="own", code="quota_exceeded") == 1

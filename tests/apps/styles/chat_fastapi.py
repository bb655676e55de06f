"""A server that speaks OpenAI's protocol: chats, whole or as server-sent events, own errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel


class Message(BaseModel):
    role: str
    content: str


class Chat(BaseModel):
    model: str
    messages: list[Message]
    stream: bool = False


MODELS = ("small", "large")
app = FastAPI()


@app.exception_handler(RequestValidationError)
async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
    said = {"message": str(error.errors()[0]["msg"]), "type": "invalid_request_error"}
    return JSONResponse({"error": said}, 400)


@app.get("/v1/models")
def models() -> dict[str, Any]:
    return {"object": "list", "data": [{"id": name, "object": "model"} for name in MODELS]}


@app.post("/v1/chat/completions", response_model=None)
async def complete(chat: Chat) -> JSONResponse | StreamingResponse:
    if chat.model not in MODELS:
        said = {"message": f"The model `{chat.model}` does not exist", "code": "model_not_found"}
        return JSONResponse({"error": said}, 404)
    words = chat.messages[-1].content.split()[::-1]
    if chat.stream:
        return StreamingResponse(_events(chat.model, words), media_type="text/event-stream")
    message = {"role": "assistant", "content": " ".join(words)}
    usage = {"completion_tokens": len(words)}
    return JSONResponse({"model": chat.model, "choices": [{"message": message}], "usage": usage})


def _events(model: str, words: list[str]) -> Iterator[str]:
    for word in words:
        chunk = {"model": model, "choices": [{"delta": {"content": f"{word} "}}]}
        yield f"data: {json.dumps(chunk)}\n\n"
    yield "data: [DONE]\n\n"

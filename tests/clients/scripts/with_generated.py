"""A client that openapi-python-client has made of the OpenAPI document: it chats, and it streams."""

from __future__ import annotations

import json
import sys

from generated_client import Client
from generated_client.api.chat import create_chat_completion
from generated_client.api.models import list_models
from generated_client.models import ChatCompletion, ChatRequest, ModelList

client = Client(base_url=sys.argv[1])
models = list_models.sync(client=client)
assert isinstance(models, ModelList)
asked = {
    "model": models.data[0].id,
    "messages": [{"role": "user", "content": "Hello"}],
    "temperature": 0,
}
whole = create_chat_completion.sync(client=client, body=ChatRequest.from_dict(asked))
assert isinstance(whole, ChatCompletion)
text = whole.choices[0].message.content
assert text
body = ChatRequest.from_dict(asked | {"stream": True}).to_dict()
streamed = ""
with client.get_httpx_client().stream("POST", "/v1/chat/completions", json=body) as response:
    for line in response.iter_lines():
        if line.startswith("data: {"):
            for choice in json.loads(line.removeprefix("data: "))["choices"]:
                streamed += choice["delta"].get("content") or ""
assert streamed == text, (streamed, text)
print("streamed", streamed)

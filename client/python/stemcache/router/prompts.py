"""What a request's prompt is, in tokens and keys: tokens as the engine itself would make them, keys as its connector does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable
from typing import Any

import stemcache
from stemcache.vllm.keys import salt_of

# Of a chat request: what decides its tokens.
_CHAT = ("messages", "tools", "add_generation_prompt", "continue_final_message", "add_special_tokens", "chat_template", "chat_template_kwargs")

Tokenize = Callable[[dict[str, Any]], Awaitable[list[int]]]


async def tokens_of(body: dict[str, Any], tokenize: Tokenize) -> list[int] | None:
    """Token ids of a completion's or a chat's prompt; None = several prompts, or one that is not only text.

    `tokenize`: what the engine's /tokenize answers.
    """
    if "messages" in body:
        if not _only_text(body["messages"]):
            return None
        return await tokenize({name: body[name] for name in _CHAT if body.get(name) is not None})
    prompt = body.get("prompt")
    if isinstance(prompt, str):
        fields = {"prompt": prompt}
        if body.get("add_special_tokens") is not None:
            fields["add_special_tokens"] = body["add_special_tokens"]
        return await tokenize(fields)
    if isinstance(prompt, list) and prompt and all(type(token) is int for token in prompt):
        return prompt
    return None


def _only_text(messages: Any) -> bool:
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        return False
    contents = [message.get("content") for message in messages]
    return all(content is None or isinstance(content, str) or
               isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content)
               for content in contents)


def keys_of(client: stemcache.Client, body: dict[str, Any], tokens: list[int]) -> bytes:
    """Keys of the prompt's full blocks, as the connector of the engine makes them."""
    return stemcache.Hasher(client, salt_of(body.get("cache_salt"))).append(tokens)


def session_of(headers: Any, body: dict[str, Any]) -> str:
    """What stays the same from turn to turn: what the caller says, else how the conversation begins."""
    said = headers.get("x-session-id") or body.get("prompt_cache_key") or body.get("user")
    if said:
        return str(said)
    if isinstance(messages := body.get("messages"), list):
        begin: Any = messages[:2]
    else:
        prompt = body.get("prompt")
        begin = prompt[:256] if isinstance(prompt, (str, list)) else prompt
    return hashlib.sha256(json.dumps(begin, sort_keys=True, default=str).encode()).hexdigest()

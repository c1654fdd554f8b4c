"""A router: an OpenAI-compatible proxy that sends each prompt where most of its KV is, weighed against load.

    python -m stemcache.router --node unix:///run/stemcache/node.sock --namespace model.json --directory 10.0.0.1:7400 \\
        --secret-file /etc/stemcache/secret --replica node-a=http://10.0.0.1:8000 --replica node-b=http://10.0.0.2:8000

A replica is named by the node on its host. The namespace file is what the connector writes (`namespace_file` of its settings). Needs
aiohttp and prometheus_client (`pip install stemcache[router]`). Meant to be read and changed: choice.py is the policy, prompts.py says
what a request's keys are, app.py is the proxy.
"""

from __future__ import annotations

import hashlib
import hmac
import pathlib


def member_token(secret_file: str) -> str:
    """What a member of the cluster shows to a directory. Raises ValueError for a secret that is too short."""
    secret = pathlib.Path(secret_file).read_bytes()
    if len(secret) < 32:
        raise ValueError(f"{secret_file} has no secret of 32 bytes or more")
    return "Bearer " + hmac.new(secret, b"stemcache/v1 peer", hashlib.sha256).hexdigest()

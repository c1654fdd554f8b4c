"""The command: python -m stemcache.router --help."""

from __future__ import annotations

import argparse
import json
import logging
import pathlib

from aiohttp import web

import stemcache
from stemcache.router import member_token
from stemcache.router.app import Router, Settings
from stemcache.router.choice import Replica
from stemcache.vllm.attach import Attachment
from stemcache.vllm.identity import namespace_from


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="stemcache.router", description="Sends each prompt to the replica that holds most of its KV.")
    parser.add_argument("--node", required=True, help="this host's node, unix:///path/node.sock: keys need its namespace's root")
    parser.add_argument("--namespace", required=True, help="JSON file that the engines' connector wrote (its setting namespace_file)")
    parser.add_argument("--replica", action="append", required=True, metavar="NODE=URL", help="an engine, and the node on its host; repeat")
    parser.add_argument("--directory", default="", metavar="HOST:PORT,...", help="whom to ask; without, sessions and load decide")
    parser.add_argument("--secret-file", default="", help="the cluster's secret")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--decide-ms", type=float, default=50, help="the longest that deciding may take")
    parsed = parser.parse_args(arguments)
    if bad := [each for each in parsed.replica if "=http" not in each]:
        parser.error(f"--replica {bad[0]}: NODE=URL is wanted, as in node-a=http://10.0.0.1:8000")
    return parsed


def main() -> None:
    arguments = parse()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    replicas = [Replica(node, url.rstrip("/")) for node, url in (each.split("=", 1) for each in arguments.replica)]
    fields = json.loads(pathlib.Path(arguments.namespace).read_text())
    attachment = Attachment("stemcache-router", arguments.node, namespace_from(fields), strict=True, staging_bytes=0)
    directories = None
    if arguments.directory:
        token = member_token(arguments.secret_file) if arguments.secret_file else ""
        directories = stemcache.Directories(arguments.directory.split(","), authorization=token)
    settings = Settings(replicas, lambda: attachment.client, directories, arguments.decide_ms / 1000)
    web.run_app(Router(settings).application(), host=arguments.host, port=arguments.port, access_log=None,
                print=lambda *_: logging.info("routing to %d replicas on http://%s:%d", len(replicas), arguments.host, arguments.port))
    attachment.close()


if __name__ == "__main__":
    main()

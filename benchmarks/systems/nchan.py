"""nchan in nginx: one master and one worker a replica, published to over HTTP."""

import asyncio
import functools
import getpass
import json
import re
import shutil
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.support.process import ChildProcess

from ..apps.control import Order, run
from .base import Cluster, MissingError, Stage, System, output_of
from .posting import Pool

INSTALL = "apt-get install nginx-light libnginx-mod-nchan"
MODULE = "ngx_nchan_module.so"
CONFIGURATION = """
daemon off;
user {user};
worker_processes 1;
worker_rlimit_nofile 40000;
pid {folder}/pid;
error_log stderr warn;
load_module {module};
events {{ worker_connections 20000; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  keepalive_requests 1000000;
  upstream registry {{ nchan_redis_server {redis_url}; }}
  nchan_message_buffer_length {buffer};
  nchan_message_timeout 1m;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location = /control {{ return 200; }}
    location = /ws {{
      nchan_subscriber websocket;
      nchan_channel_id $arg_channel;
      nchan_redis_pass registry;
      nchan_subscriber_first_message newest;
    }}
    location = /publish {{
      nchan_publisher http;
      nchan_channel_id $arg_channel;
      nchan_redis_pass registry;
      {deflate}
    }}
  }}
}}
"""
BUFFER = 50
"""Messages a channel keeps: more than are published at once, so that a subscriber that lags loses none."""


class NchanCluster(Cluster):
    """Published to from outside, over connections that are kept."""

    def order(self, **order: Any) -> dict[str, float]:
        """Publish what a replica of the other systems would have sent by itself."""
        asyncio.run(_publish(self.ports[0], order))
        return {}


class Nchan(System):
    """The strongest peer: C."""

    name = "nchan"
    title = "nchan + Redis (C, in nginx)"
    everybody_path = "/ws?channel=everybody"
    client_path = "/ws?channel={id}"
    takes_messages = False

    def versions(self) -> dict[str, str]:
        """Find nginx and the module."""
        if _nginx() is None or _module() is None:
            raise MissingError(INSTALL)
        found = {"nginx": output_of([str(_nginx()), "-v"], lambda text: text.strip().rpartition("/")[2])}
        if shutil.which("dpkg-query"):
            command = ["dpkg-query", "-W", "-f", "${Version}", "libnginx-mod-nchan"]
            found["nchan"] = output_of(command, str.strip)
        return found

    def launch(self, port: int, stage: Stage, stack: ExitStack) -> ChildProcess:
        """Start nginx in a folder of its own."""
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmarks-nginx-"))
        configuration = Path(folder) / "nginx.conf"
        filled = CONFIGURATION.format(
            user=getpass.getuser(),
            folder=folder,
            module=_module(),
            redis_url=stage.redis_url.removesuffix("/0"),
            port=port,
            buffer=BUFFER,
            deflate="nchan_deflate_message_for_websocket on;" if stage.is_compressed else "",
        )
        configuration.write_text(filled)
        return ChildProcess([str(_nginx()), "-p", folder, "-e", "stderr", "-c", configuration])

    def cluster(self, processes: Any, ports: Any) -> Cluster:
        """Return the handle that publishes; the workers are there once the port answers."""
        return NchanCluster(processes, ports)


def _nginx() -> str | None:
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


def _module() -> Path | None:
    done = subprocess.run([str(_nginx()), "-V"], capture_output=True, text=True, timeout=10, check=False)
    folder = re.search(r"--modules-path=(\S+)", done.stderr)
    module = Path(folder[1]) / MODULE if folder else None
    return module if module is not None and module.is_file() else None


async def _publish(port: int, given: dict[str, Any]) -> None:
    async with Pool(port) as pool:

        async def publish(channel: str, message: Any) -> None:
            body = message if isinstance(message, str) else json.dumps(message)
            await pool.post(f"/publish?channel={channel}", body.encode())

        await run(Order(**given), functools.partial(publish, "everybody"), publish)

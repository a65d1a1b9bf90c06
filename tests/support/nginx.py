"""A real nginx, run as a child process that ends with the test."""

import shutil
import socket
from collections.abc import Mapping
from pathlib import Path

from tests.support.process import ChildProcess
from tests.support.requirements import missing
from tests.support.waiting import eventually_sync

BALANCER = Path(__file__).parents[2] / "compose" / "nginx.conf"
_TEMPORARY = "".join(
    f"{kind}_temp_path ./{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
)


def nginx_command(directory: Path, configuration: str) -> list[str]:
    """Return the command that runs nginx with a configuration and with its files in ``directory``."""
    binary = shutil.which("nginx") or missing("nginx is not installed: apt-get install nginx")
    assert configuration.count("http {") == 1
    file = directory / "nginx.conf"
    file.write_text(configuration.replace("http {", "http {" + _TEMPORARY))
    # Without a master process, because its workers would outlive it after a kill.
    directives = "daemon off; master_process off;"
    return [binary, "-p", str(directory), "-c", str(file), "-g", directives]


def balancer(port: int, replicas: Mapping[str, int]) -> str:
    """Return ``compose/nginx.conf`` with other addresses and paths, and with nothing else changed."""
    text = BALANCER.read_text()
    moves = {f"server {name}:8000": f"server 127.0.0.1:{there}" for name, there in replicas.items()}
    moves |= {"listen 8080": f"listen 127.0.0.1:{port}", "pid /tmp/": "pid ./"}
    moves |= {"/dev/stderr": "./error.log", "/dev/stdout": "./access.log"}
    for old, new in moves.items():
        assert text.count(old) == 1, f"nginx.conf should say {old!r} once"
        text = text.replace(old, new)
    return text


def wait_for_listener(child: ChildProcess, port: int) -> None:
    def is_listening() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    eventually_sync(lambda: is_listening() or not child.is_running, 30.0, f"a listener on port {port}")
    assert child.is_running, child.output

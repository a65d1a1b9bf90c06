"""A process that has imported what servers import, and forks: ``python -m tests.support.fork_server SOCKET``.

A server that is forked from it starts in a tenth of the CPU time, because nothing is left to import but its
application. ``tests/support/forked.py`` is the other side. Each request is one packet of JSON.
"""

import ctypes
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import sys
import warnings
from typing import Any

MAX_REQUEST_BYTES = 256 * 1024
PR_SET_PDEATHSIG = 1
IMPORTED = (
    "fastapi_websocket_stabilizer",
    "uvicorn.lifespan.on",
    "uvicorn.main",
    "uvicorn.protocols.http.h11_impl",
    "uvicorn.protocols.http.httptools_impl",
    "uvloop",
    "websockets.server",
)


def serve(client: socket.socket) -> dict[str, Any] | None:
    """Answer requests until the end of the connection. In a forked process, return the request for it."""
    while True:
        data, files, _, _ = socket.recv_fds(client, MAX_REQUEST_BYTES, 1)
        if not data:
            return None
        request: dict[str, Any] = json.loads(data)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            answer = os.waitstatus_to_exitcode(status)
        else:
            (output,) = files
            answer = os.fork()
            if answer == 0:
                client.close()
                _become(request, output)
                return request
            os.close(output)
        client.send(json.dumps(answer).encode())


def _become(request: dict[str, Any], output: int) -> None:
    """Give this process what a new one would have."""
    gc.unfreeze()
    os.setpgid(0, 0)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    os.close(nothing)
    os.close(output)
    os.chdir(request["directory"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.path[0] = request["directory"]
    sys.argv = [request["module"], *request["arguments"]]
    if request["warns"]:
        warnings.simplefilter("default")


if __name__ == "__main__":
    for name in IMPORTED:
        importlib.import_module(name)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(sys.argv[1])
        listener.listen(1)
        connection, _ = listener.accept()
    gc.freeze()  # the servers share these objects, so nothing should write to them
    if (found := serve(connection)) is not None:
        runpy.run_module(found["module"], run_name="__main__", alter_sys=True)

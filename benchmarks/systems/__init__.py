"""The systems that are compared, in the order of the tables."""

from .base import Cluster, MissingError, Stage, System
from .centrifugo import Centrifugo
from .nchan import Nchan
from .ours import Bare, Ours, OursBlock, OursStock
from .python_peers import ChannelsLayer, Glue, Hubcast, PythonSocketIO
from .rooms import OursBefore, OursOff, OursRooms, OursV1
from .socketio_node import SocketIO

ALL: dict[str, System] = {
    system.name: system
    for system in (
        Ours(),
        OursBlock(),
        OursStock(),
        OursRooms(),
        OursV1(),
        OursOff(),
        OursBefore(),
        Glue(),
        PythonSocketIO(),
        ChannelsLayer(),
        Hubcast(),
        SocketIO(),
        Nchan(),
        Centrifugo(),
        Bare(),
    )
}

__all__ = ["ALL", "Cluster", "MissingError", "Stage", "System"]

"""Client of the WebSocket subprotocol ``stabilizer.v1``: nothing is missed across reconnects."""

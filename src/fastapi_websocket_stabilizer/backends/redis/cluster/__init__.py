"""Redis Cluster: slots and their owners, commands and the bus for several primaries. Unused with one server."""

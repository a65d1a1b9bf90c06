"""The sockets of this node. Pure machines < transport < connection < shards < fanout."""

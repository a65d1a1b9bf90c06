"""One node of the registry: its lease, its connections and rooms, and its messages to and from other nodes."""

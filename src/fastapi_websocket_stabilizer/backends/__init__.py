"""Where the registry is kept: in this process, or in Redis."""

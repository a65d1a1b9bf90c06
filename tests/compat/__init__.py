"""What release 1.1 documents works in 2.0: one process, no Redis, no ``start()``."""

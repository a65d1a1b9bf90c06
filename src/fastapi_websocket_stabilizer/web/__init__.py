"""FastAPI's side: routes, handlers, health, and the life of the process."""

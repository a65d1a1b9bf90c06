"""Integration with FastAPI: routes, handlers, health checks and the lifespan."""

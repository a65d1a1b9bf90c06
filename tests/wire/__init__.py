"""The uvicorn protocol class on the wire: other people's clients, and one that breaks every rule."""

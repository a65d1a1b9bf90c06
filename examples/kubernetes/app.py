"""rooms.py with a gauge for Prometheus, by which the HorizontalPodAutoscaler scales."""

from fastapi.responses import PlainTextResponse

from examples import rooms

app = rooms.app


@app.get("/metrics", response_class=PlainTextResponse, include_in_schema=False)
async def metrics() -> str:
    return f"# TYPE fws_connections gauge\nfws_connections {rooms.manager.get_connection_count()}\n"

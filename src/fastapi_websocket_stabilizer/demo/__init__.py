"""``stabilizer demo``: a chat on several replicas, on one machine, for looking at and for learning from.

``app.py`` is the application, a model of how to use this package; ``page.html`` is what a browser shows.
``supervisor.py`` runs Valkey and the replicas; ``reaper.py`` makes sure that none of them outlives it.
"""

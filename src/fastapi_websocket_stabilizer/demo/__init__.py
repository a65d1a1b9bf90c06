"""``stabilizer demo``: a chat on several replicas on one machine.

``app.py`` is the application and an example of the use of this package, ``page.html`` is its page.
``supervisor.py`` runs Valkey and the replicas. ``reaper.py`` ends them, even if the supervisor is killed.
"""

"""A board of notes with hooks for React: ``app.py`` and the page in ``src``."""

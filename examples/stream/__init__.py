"""An answer of a language model that survives a killed replica and a reloaded page."""

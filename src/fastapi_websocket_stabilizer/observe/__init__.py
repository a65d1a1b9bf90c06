"""The view of operators on a registry: the catalog of metrics, and what is made from it."""

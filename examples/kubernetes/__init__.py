"""Manifests of a deployment that drains, and its application; docs/kubernetes.md explains them."""

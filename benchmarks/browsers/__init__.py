"""Clients for browsers: their size, and what each loses when a server, a network or a page fails.

``python -m benchmarks.browsers`` needs Node.js 20, npm, Chromium and a Redis server. It installs the packages of the
peers into a temporary folder, unless ``BENCHMARKS_NODE_MODULES`` names a folder that has them. ``CENTRIFUGO`` names
the binary of Centrifugo.
"""

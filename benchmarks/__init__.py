"""What this library costs next to the systems that do the same job: ``python -m benchmarks``.

Two replicas of each system share one Valkey; raw-socket clients in a process of their own count every message.
What is compared is the CPU time of the servers: all replicas, all their processes, without Redis and the clients.

- ``systems/`` say how a system is found, started and spoken to; ``apps/`` are the applications they start.
- ``clients`` (with ``receiver``) is the load generator, ``crowd`` the handle on it.
- ``measures`` are what is measured, ``plan`` what is measured of whom, ``loads`` how much of it.
- ``results`` is what was seen, ``goals`` what we promise of it, ``report`` and ``charts`` the page.

Nothing is installed: a peer that is missing is named, with the command that installs it, and left out.
"""

"""The same application on a Ray cluster: HTTP on every host, one engine per GPU.

``ingress`` serves ``server.app`` with a ``client`` that sends requests to ``replica``: an engine on one GPU,
in a Ray actor that Ray Serve starts, watches and replaces. ``router`` chooses the replica that would be done
first, ``scaling`` the number of replicas; both use the seconds of work that each replica reports.

The engine does not import Ray. The loss of a host or a process loses no request: requests, keys and credits
are in Postgres, pictures in a store that every host reaches.
"""

from server.ray.environment import prepare_environment

prepare_environment()  # before ray is imported: it reads some variables only then

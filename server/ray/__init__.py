"""The same application on a Ray cluster: HTTP on every host, one engine a GPU, nothing lost with either.

``ingress`` serves ``server.app`` with a ``client`` that speaks to ``replica``: an engine of one GPU, in a Ray
actor that Ray Serve starts, watches and replaces. ``router`` chooses the replica that would be done first,
``scaling`` how many there are; both go by the seconds of work that each replica says it has.

The engine knows nothing of Ray. What must outlive a host lies elsewhere: requests, keys and credits in
Postgres, pictures in a store that every host reaches.
"""

from server.ray.environment import prepare_environment

prepare_environment()  # before anybody imports ray, which reads some of it only then

"""A fuzzer with one parser per module; ``python -m tools.fuzz PARSER --minutes 20 --seed 1``.

Anything a parser raises but an ``InpaintError``, and any input that takes too long or too much memory, is a
finding. With atheris installed (``tools/fuzz/requirements.txt``) the inputs follow the coverage of our Python
code; without it they are mutations of the seeds alone.
"""

"""The claims and studies of this project, a command each: `python analysis/views.py`, see
README.md.

Everything below is one package, `analysis`, that is found from the checkout. A command that is
called by its path has its own folder as the first entry of `sys.path`; its one line before the
imports puts the checkout there instead. Benchmarks are called as `python -m
analysis.benchmarks.losses`, which needs no such line."""

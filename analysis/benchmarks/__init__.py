"""What parts of the software cost, beside other ways to do the same: `python -m
analysis.benchmarks.NAME`."""

"""Self-supervised pretraining with K views and small, orthogonal projectors (arXiv 2312.10725)."""

__version__ = "0.1.0"


class InputError(ValueError):
    """Something that the user gave cannot be used; the message says so, and what to do, in a line.

    Commands print it without a traceback and exit with code 2.
    """

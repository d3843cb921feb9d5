"""Self-supervised pretraining with K views and small, orthogonal projectors (arXiv 2312.10725)."""

__version__ = "0.1.0"


class InputError(ValueError):
    """Something the user gave cannot be used; the message is one line that says what and what to do.

    Commands print it without a traceback and exit with code 2.
    """

"""The exception for invalid input.

All invalid input (a path, a key, a value, a file's content) raises `InputError`. Programs show its message without a
traceback; a bug in the code still shows one.
"""


class InputError(ValueError):
    """Invalid input.

    The message has the file or key, the value found, the expected one, and a remedy.

    Example
    -------
    >>> raise InputError("model_size 'XL' is not known: choose one of S, M, L.")
    Traceback (most recent call last):
        ...
    mossformer_sb.errors.InputError: model_size 'XL' is not known: choose one of S, M, L.
    """

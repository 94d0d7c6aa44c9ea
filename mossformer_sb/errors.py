"""The one exception for wrong input.

Everything that a user can get wrong (a path, a key, a value, a file's content) raises `InputError`. Programs show its
message without a traceback; a bug in the code still shows one.
"""


class InputError(ValueError):
    """Something that the user gave can't be used.

    The message names the file or key, what was found, what was needed, and what to do.

    Example
    -------
    >>> raise InputError("model_size 'XL' is not known: choose one of S, M, L.")
    Traceback (most recent call last):
        ...
    mossformer_sb.errors.InputError: model_size 'XL' is not known: choose one of S, M, L.
    """

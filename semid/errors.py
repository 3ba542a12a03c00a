"""The one exception for mistakes that a user can make and mend."""


class InputError(ValueError):
    """Bad input: the message is one sentence that says what is wrong, where, and what to do.

    The command line prints the message and exits with status 1; a library caller may catch it as a
    ``ValueError``.
    """

"""The one exception of the package: something the user can put right."""


class StudyError(ValueError):
    """Bad input, said in one line: what was got, what was expected, what to do.

    The command line prints the message without a traceback and exits with code 2.
    """

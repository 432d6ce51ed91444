"""What a user can mend: every error of bad input is one of these, one line each."""


class GcdaskError(Exception):
    """Base of the errors that the command line reports in one line."""

    exit_code = 1


class InputError(GcdaskError, ValueError):
    """Bad input: what was wrong, the value received, and what to do (exit code 2)."""

    exit_code = 2


class LockError(GcdaskError):
    """Another run is at work in the output folder (exit code 4)."""

    exit_code = 4

"""What can go wrong for a user, and the exit code the command line gives for each."""


class ResidualError(Exception):
    """A mistake or a fault that one line explains; the command line prints that line and no traceback."""

    exit_code = 1


class UsageError(ResidualError):
    """A name, an option or a recipe value that does not fit."""

    exit_code = 2


class DataError(ResidualError):
    """A data set that is missing, truncated or corrupted."""

    exit_code = 3


class CheckpointError(ResidualError):
    """A checkpoint or model folder that is truncated, corrupted, unsafe or of another network."""

    exit_code = 4


class RunError(ResidualError):
    """A run folder that exists already, cannot be written, or does not fit what is asked of it."""

    exit_code = 5


class NonFiniteLossError(ResidualError):
    """Training stopped because the loss was no longer a finite number."""

    exit_code = 6


class OutputError(ResidualError):
    """Standard output that cannot be written; what a command wrote into files is there all the same."""

    exit_code = 7


class InterruptedRunError(ResidualError):
    """Training stopped by a signal; the message says what is saved and how to go on."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


def in_short(error: BaseException) -> str:
    """Return the kind of another library's error, and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]

"""The two ways a run ends early that are not bugs."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can mend: bad input, a missing file, too little memory.

    `message` names the file or layer and the value; `remedy` says what to do. Shown without a traceback, exit status 1.
    """

    def __init__(self, message: str, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


class Cancelled(Exception):
    """The user asked the run to stop. What is finished stays; exit status 130."""


def missing_module(failure: ModuleNotFoundError) -> UserError:
    """What to say of a module that is not there: of the environment's, or of this engine's own."""
    if (failure.name or "").partition(".")[0] == "bondwise":
        return UserError(f"This copy of the engine is not whole: {failure.name} is missing.", "Install the extension again.")
    return UserError(
        f"The engine's environment lacks {failure.name}.", 'Run "Bondwise: Set Up Engine", or `doctor` to see what is missing.'
    )

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

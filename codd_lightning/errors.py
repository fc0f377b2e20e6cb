"""The error that a user can mend."""


class UserError(ValueError):
    """Something that the user gave is wrong; the message names it, its value and the mend, in one line."""

"""What can go wrong for reasons that a user can mend."""


class RunError(Exception):
    """A run cannot go on; the message says what was found, what was expected and the remedy."""

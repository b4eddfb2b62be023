"""What is wrong with an input, as opposed to a bug."""

from __future__ import annotations


class UserError(ValueError):
    """Something that a user can put right: one line that names the thing, the rule and the value.

    A class of the plugin's own, which runs in hosts that have none. Commands know such errors by this name.
    """

"""The languages of guests that are processes. Python runs in the agent itself; of the others each is a child of it."""

PATH = "/usr/local/bin:/usr/bin:/bin"
"""Where a guest finds its commands, its interpreters among them."""

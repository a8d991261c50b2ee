"""The languages of guests that are processes. Python runs in the agent itself; of the others each is a child of it."""

PATH = "/usr/local/bin:/usr/bin:/bin"
"""Where a guest finds its commands, its interpreters among them."""

NODE = ("node", "--expose-internals", "--experimental-vm-modules")
"""Node, with the parser that it has for its own prompt, and leave for snippets to import modules (by Node 18)."""

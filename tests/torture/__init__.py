"""Force on the real program: each module is a command that prints figures (``make torture``)."""

"""Violence on the real thing: each module is a command that prints its figures (``make torture``)."""

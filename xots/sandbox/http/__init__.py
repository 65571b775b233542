"""The simulated Xero over HTTP.

- ``server`` has `Sandbox`, which opens the sockets; ``app`` has the table of routes.
- ``oauth``, ``pages`` and ``api`` are Xero's endpoints; ``control`` is the sandbox's own.
- ``handlers`` handles a request with its fault; ``responses`` makes the responses.
"""

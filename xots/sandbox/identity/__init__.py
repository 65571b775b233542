"""The simulated identity provider as a state machine: no sockets, no files, no clock of its own.

The caller passes the time to every method, as an aware UTC datetime, and the source of random
numbers to the constructor. So a simulation can run through years, at thousands of steps a second,
with the same result each time.

- ``provider`` has `Identity`: it authenticates, takes consents, and issues and revokes tokens.
- ``protocol`` defines requests, responses and errors as types.
- ``switches`` choose between the behaviours that Xero does not document.
- ``clients``, ``consents`` and ``tokens`` are the records that it keeps.
- ``authorization`` reads authorization requests.
- ``issuing`` makes the token responses, with ``claims``, ``signing`` and ``randomness``.
"""

"""The life of a login's tokens, as pure functions on one record: no I/O, no clock, no randomness.

==============  ==================================================================================
``account``     the record, and its JSON
``outcomes``    the outcomes of a request to the token endpoint
``schedule``    the login's state, what is due, the token to spend: ``next_step``
``transitions`` the next record after a refresh, a login or its end: ``after``
``merging``     the union of two versions of the record: ``merged``
``expiry``      the end of an access token and of a wait by two clocks: ``Expiry``
``outlook``     what the operator is told of the future: ``outlook``
==============  ==================================================================================

``keeping`` asks ``next_step``, acts, and passes the outcome to ``after``.
"""

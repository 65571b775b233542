"""One account, kept alive: the only code that spends tokens at Xero and writes the record.

================= ==================================================================================
``usage``         whether callers use the account
``record_store``  the record in the store, sealed
``changes``       one subscription to the store for all accounts
``store_clock``   the comparison of this host's clock with the store's
``replica``       the record in memory, and its agreement with the store
``reporting``     the events that follow from an operation, and why there is no token (pure)
``context``       the parts of the keeper that every operation shares
``refreshing``    a refresh, step by step
``obtaining``     an access token by the client's own credentials
``login``         a login, step by step
``logins``        the logins in progress, and their bounds
``serving``       the access tokens for callers
``disconnecting`` the end of a login that shares its Xero user: its own connections
``siblings``      the accounts that share a Xero user, found in the store
``ending``        a login's end, step by step
``tenants``       the organisations of a login
``acts``          the changes of a login that callers request, a few at a time
``following``     other processes' writes, the store's health, differences of clocks
``resealing``     every record of a store, sealed anew
``keeper``        ``TokenKeeper``: the operations of one account, for its callers
================= ==================================================================================
"""

"""The life of a login's tokens, as pure functions on one record: no I/O, no clock, no randomness.

================  ================================================================================
``account``       the record, and its JSON
``outcomes``      the outcomes of a request to the token endpoint
``policy``        the settings that the decisions depend on
``waits``         the time before the next attempt
``candidates``    the refresh tokens worth spending, the most promising first
``schedule``      the login's state, and what is due: ``next_step``
``attention``     when an account needs attention next: ``attention_at``
``transitions``   the next record after a refresh, a login or its end: ``begin_refresh``, ``after``
``client_grant``  the next record without a login: ``after_client_token``
``tenants``       the organisation that an account uses: ``after_list``
``sharing``       the accounts that share their fate at Xero, and their organisations
``merging``       the merge of two versions of the record: ``merged``
``expiry``        the end of an access token and of a wait by two clocks: ``Expiry``
``outlook``       the next attempts, and when a user must log in: ``outlook``
================  ================================================================================

``keeping`` asks ``next_step``, acts, and passes the outcome to ``after``.

The words that all of them use:

- A refresh token is **spent** once a request that holds it may have reached Xero.
- A refresh is **open** from its intent to a known outcome; a lost response keeps it open.
- The **grace period** is the time in which Xero accepts a spent token again.
- A **replay** is Xero's repetition of an earlier response.
- A token is **proved** by a refresh that succeeds with it. A proof drops other fresh tokens.
- A **fallback** is another refresh token of the same consent that Xero may still accept.
- A **tombstone** is the fingerprint of a token that the record held and dropped.
- A version of the record **descends** from another if refreshes of the other's token led to it.
"""

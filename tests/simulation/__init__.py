"""A deterministic simulation of real processes' accounts, with a simulated store, Xero and clock.

``make simulate`` prints its figures. For a broken invariant it prints the seed that replays it, and
``--trace`` prints the steps of that seed. Nothing here waits in real time: the time of the event
loop jumps to the next event. The seed decides all random values. Each seed draws its kinds of
faults, so that rare faults are frequent in some seeds, and coincide there.

Each process runs the manager of all accounts. A seed draws one to five accounts: some of one Xero
user, some kept fresh always and some while they are used; an index of due accounts that the
processes share, or one for each process.

Faults at each call of the store or of Xero: the calling process dies or pauses; responses are lost
before and after the commit; requests arrive twice; 5xx, 429 and ``invalid_client``; responses
without a refresh token; delays; failures of the store before and after the write. Other events:
outages of Xero and of the store, roll-backs of the store to an old dump, and clocks that are set;
logins, revocations and logouts at several processes at once; accounts that are added and removed.

Checks after every write and after every request that Xero carried out, for each account:

- while there is a login, the store holds a token from which Xero would issue;
- its record holds no token of another account, and its organisation stays connected at Xero;
- no refresh token is used again later than 30 minutes after its first use;
- only a later login or end undoes a confirmed one (``Ledger``);
- no process serves an access token that Xero would refuse as expired, unless its clock is wrong, or
  one of another account;
- in the end, without faults, every process has the record of the store, and serves its token; all
  list the same accounts, and no account stays due.

Single clocks are set by a minute or a day. While clocks differ, the first two checks still hold: no
refresh token is lost. Extra refreshes and errors are allowed then.

``--grace`` runs the same faults at a server with a shorter grace period than Xero's, such as 0 for
strict reuse detection (RFC 9700 section 4.14.2), with the same setting in each process. The server
ends a login if a token is used again later. So a lost response may cost the login there, and
``Attempts`` checks that nothing else does:

- a spent token is used again once at most (with a grace period: late only after a lost response),
  and only after the access token of the record has expired;
- a login is lost only if a response was lost, or was not written before the end, a pause or a lost
  connection of its process; or if two requests got no response;
- its user logs in again.

``--trouble`` runs another story: nothing fails but requests, leases, records and consents of some
accounts. The other accounts must not notice: each due refresh is made within a tick and the time of
its requests, and callers of a used account never wait.
"""

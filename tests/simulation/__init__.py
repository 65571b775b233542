"""A deterministic simulation: the real keepers, in several simulated processes, on a simulated store, Xero and clock.

``make simulate`` prints its figures; a broken invariant prints the seed that replays it, and ``--trace`` tells what
happened in that seed, step by step. Nothing here waits in real time: the event loop's time jumps to whatever is due
next, and everything random comes from the seed. What a seed has trouble with is drawn with it, so that rare kinds of
trouble meet often in some seed.

Injected, at every word with the store or with Xero: death and pauses of the process that speaks; answers lost before
and after the commit, requests that arrive twice, 5xx, 429, ``invalid_client``, answers without a refresh token, delays;
store failures before and after the write. Around them: outages of Xero and of the store, roll-backs of the store to an
old dump, clock steps; logins, revocations and logouts, at several processes at once.

Checked after every write and after everything that Xero did:

- while there is a login, the store holds a token from which Xero would issue;
- no refresh token is used again later than 30 minutes after its first use;
- an acknowledged login or end of one is undone by nothing but a later one (``Ledger``);
- no process serves an access token that Xero would refuse as expired, unless its own clock is wrong;
- in the end, when nothing goes wrong any more, every process has what the store has, and serves it.

Single clocks step by a minute or a day. While clocks differ, the first two lines hold as ever: no refresh token is
lost. Extra refreshes and errors may happen, and are not counted as broken.
"""

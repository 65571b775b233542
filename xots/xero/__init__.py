"""The identity server, Xero or another: its protocol, and the client that speaks it.

===================  =============================================================================
``identity_server``  its settings: the URLs, and how a client authenticates there
``protocol``         credentials, requests and responses, and the outcome of each: pure functions
``requests``         requests for tokens, and the URL at which a login starts: pure functions
``claims``           the Xero user and the login that an access token belongs to: pure functions
``coding``           decodes the content of a response: pure functions
``connections``      the organisations of a login: request and response, pure functions
``scopes``           the scopes that a user gives, as text: pure functions
``http``             ``XeroClient``: sends one request and returns its outcome; the only I/O
===================  =============================================================================
"""

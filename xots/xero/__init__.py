"""The protocol of the identity server, Xero's in the first place.

=============  ===================================================================================
``protocol``   the requests and responses, and the outcome of each: pure
``http``       ``XeroClient``: sends one request, and reads its response
=============  ===================================================================================
"""

"""The accounts of one process: a keeper for each that is needed, and the work that is due.

=============  ===================================================================================
``config``     the settings of one account, as its keeper needs them
``directory``  the known accounts, with a summary of each that costs no request
``keepers``    the open keepers: opened when they are needed, closed when they are idle
``survey``     sweeps of all records, and the store's changes
``work``       the accounts that are due, a few at a time
``accounts``   ``Accounts``: all of these, for the rest of the program
=============  ===================================================================================

An account that is not in use costs an entry of the store's index and a summary. The **index** holds
the times at which an account needs attention, whether it is used or not: the rotation of its
refresh token, an open refresh, a pending revocation. An account in use is kept open by each process
whose callers use it, and that process refreshes its access token ahead. So no process has to know
which accounts the callers of another process use.
"""

"""The simulated Xero over HTTP."""

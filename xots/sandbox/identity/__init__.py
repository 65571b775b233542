"""The simulated identity provider, without any I/O."""

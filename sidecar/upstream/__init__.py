"""Upstream: does what was permitted, at most once, on OpenBao."""

"""One closed table per secrets engine."""

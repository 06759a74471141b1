"""The development world: a real OpenBao, an issuer, two sidecars, and a tour of them. Never for production."""

"""Who holds which lease and which certificate, and the tokens that leases live under."""

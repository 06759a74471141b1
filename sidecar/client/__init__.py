"""Helps an application sign DPoP proofs. Depends on nothing of the server's parts."""

"""The Secrets API's requests, carried out: each is made of permitted operations, one secret each."""

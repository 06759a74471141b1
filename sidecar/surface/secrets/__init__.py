"""The Secrets API, `/api/secrets…`: which requests there are, and which operations they are made of."""

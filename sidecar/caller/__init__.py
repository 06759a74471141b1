"""The caller: who asks. Credentials become a `Caller`, or are refused."""

"""Load for as long as one asks, and a look at what it left behind: memory, descriptors, requests, records."""

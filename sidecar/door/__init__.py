"""The door: one strict reading of the HTTP message. What comes after it never sees the caller's bytes."""

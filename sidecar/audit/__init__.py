"""The audit: writes it down before anything is released."""

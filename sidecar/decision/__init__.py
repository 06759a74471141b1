"""The decision: whether they may, now, this often, with this key in hand."""

"""The development world: real OpenBao, a development issuer, the sidecar, and a tour through them."""

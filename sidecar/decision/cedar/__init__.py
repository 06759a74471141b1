"""The embedded PDP: a folder of Cedar policies, and no server."""

from sidecar.decision.cedar.pdp import CedarPdp
from sidecar.decision.cedar.problem import PolicyError

__all__ = ["CedarPdp", "PolicyError"]

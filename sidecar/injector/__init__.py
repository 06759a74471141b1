"""The Kubernetes admission webhook that puts the sidecar into pods."""

"""The whole thing in Kubernetes: a real API server admits it, and the pods that come out of it run."""

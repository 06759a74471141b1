"""The kubelet's part, played for one pod at a time: its containers as processes in the kernel's own namespaces.

What a pod's specification says is done as the kubelet does it: volumes are laid out and swapped as a whole, tokens
come from the API server's TokenRequest, each container sees its own mounts and its own processes, init containers and
native sidecars start in their order and behind their probes, and a pod ends in the order that Kubernetes documents.
There is no image: a container's root is this machine's own file system, read as it stands, with what is written thrown
away, and the sidecar's entry point is this tree's. It needs to be root, or to have its capabilities.
"""

"""ipvsproxy: a Kubernetes service proxy for Linux nodes that keeps the kernel's IPVS table."""

__version__ = "0.1.0"

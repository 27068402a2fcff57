"""Where objects come from: a folder of manifests, or the Kubernetes API; each yields events."""

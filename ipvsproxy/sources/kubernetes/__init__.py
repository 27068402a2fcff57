"""The Kubernetes API as a source: credentials and requests, and list-and-watch."""

"""The injector: what it decides about pods, and how it is asked."""

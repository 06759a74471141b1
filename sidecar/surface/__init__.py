"""The surface: what is asked. A request becomes an `Operation`, or is refused because it cannot be named."""

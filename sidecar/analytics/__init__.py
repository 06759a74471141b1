"""The audit, read back from Kafka."""

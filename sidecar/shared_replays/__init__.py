"""The memory of replays that the replicas behind one address share: a Valkey (or Redis 7) server."""

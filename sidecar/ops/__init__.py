"""Operations: metrics, health, logs."""

"""The UniBiomed architecture in plain PyTorch: for reading, for parity checks and for training unibiomed-nano."""

"""Trains the learned parts of the cost model from the recorded data; needs PyTorch."""

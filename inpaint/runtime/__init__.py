"""The threads that run requests: step loop, encoding and decoding, CUDA streams, calibration."""

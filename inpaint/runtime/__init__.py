"""The threads that run a request: step loop, stages around it, CUDA streams, calibration."""

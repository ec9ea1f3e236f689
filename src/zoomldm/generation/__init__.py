"""What rendering, sampling and evaluation share: options, the batch loop, sheets."""

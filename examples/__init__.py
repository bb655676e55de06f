"""What does a guarded inference service look like? Runnable twins, and a demonstration of both."""

"""From the program's threads to the backends: one intake thread, then a queue and a thread for each backend."""

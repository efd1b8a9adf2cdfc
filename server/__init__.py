"""The engine as a process: the socket, the job store, and the worker that makes clips."""

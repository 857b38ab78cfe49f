"""The Lightning callbacks, and the loggers they write to."""

"""What an encoder is used for; one file a task."""

"""Parts of this project that run inside other programs, and their installation there."""

"""Picture files: bytes to pictures and back, EXIF, and how a picture was made. Imports no torch."""

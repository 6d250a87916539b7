"""The table of docs/files.md: files of other tools, read by ours and compared with those tools."""

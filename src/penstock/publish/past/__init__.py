"""The past once more: repeated, compared, searched, rewritten."""

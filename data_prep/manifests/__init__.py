"""From files on the disk to manifests and tables, with all checks."""
